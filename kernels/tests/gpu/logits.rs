//! Scale and soft cap of logits against `sconce_kernels::elementwise`.

use sconce_kernels::device::Cpu;
use sconce_kernels::elementwise::{scale, softcap};
use sconce_kernels::gpu::logits::scale_softcap;
use sconce_kernels::gpu::verify::{Random, assert_close};

use super::emu::emulated;

#[test]
fn logits_are_scaled_and_capped_as_on_the_cpu() {
    emulated(|emu| {
        let cpu = Cpu::new(1);
        for len in [0, 1, 3, 4, 1023, 1025, 2047] {
            for cap in [None, Some(30.0)] {
                let values: Vec<f32> = Random(len as u64).values(len).into_iter().map(|x| 300.0 * x).collect();
                let x = emu.upload(&values);
                emu.launch(&scale_softcap(x.ptr(), len, 0.25, cap));
                let mut want = values;
                scale(&cpu, 0.25, &mut want);
                if let Some(cap) = cap {
                    softcap(&cpu, cap, &mut want);
                }
                assert_close(&x.read(), &want, 2e-6, 1e-5).expect("close");
            }
        }
    });
}
