//! What `gpu-check` runs on a card passes on the emulated one, and a wrong result tells where it is.

use half::bf16;
use sconce_kernels::gpu::gemv::GemvOutput;
use sconce_kernels::gpu::verify::product::Case;
use sconce_kernels::gpu::verify::{Fault, assert_close, checks};

use super::emu::emulated_bed;

#[test]
fn every_check_of_a_card_passes() {
    emulated_bed(|bed| {
        for check in checks() {
            (check.run)(bed).unwrap_or_else(|fault| panic!("{}: {fault}", check.name));
        }
    });
}

#[test]
fn every_check_of_a_hopper_cards_attention_passes() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        for check in checks().iter().filter(|check| check.name.starts_with("attention")) {
            (check.run)(bed).unwrap_or_else(|fault| panic!("{}: {fault}", check.name));
        }
    });
}

#[test]
fn a_wrong_result_names_the_problem_and_the_worst_element() {
    emulated_bed(|bed| {
        let case = Case::<bf16>::of(None, (3, 17, 40), true, false, GemvOutput::F32).expect("operands");
        let mut got = case.run(bed, 0, 3).expect("runs");
        let want = case.reference();
        (got[5], got[20]) = (want[5] + 0.1, want[20] - 10.0);
        let Err(Fault::Wrong(text)) = assert_close(&got, &want, 0.0, 1e-3) else { panic!("not noticed") };
        assert!(text.starts_with("value 20 is ") && text.ends_with("; 2 of 51 values are off"), "{text}");
        got[7] = f32::NAN;
        let Err(Fault::Wrong(text)) = assert_close(&got, &want, 0.0, 1e-3) else { panic!("not noticed") };
        assert!(text.starts_with("value 7 is NaN"), "{text}");
    });
}
