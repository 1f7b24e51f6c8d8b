//! Packed weights: their values on the device are those of the file, exactly.

use half::{bf16, f16};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::quant::QuantLayout;
use sconce_kernels::gpu::verify::packed::{TYPES, check};

use super::emu::emulated_bed;

#[test]
fn values_are_those_of_the_file() {
    emulated_bed(|bed| {
        for ty in TYPES {
            for cols in if ty.block_len() == 32 { [32, 352, 2336] } else { [256, 768, 2304] } {
                check::<bf16, _>(bed, ty, 19, cols).expect("equal");
                check::<f16, _>(bed, ty, 5, cols).expect("equal");
            }
        }
    });
}

#[test]
fn packed_matrices_take_hardly_more_than_the_file() {
    for ty in TYPES {
        let layout = QuantLayout::new(ty, 4096, 4096).expect("whole blocks");
        let file = 4096 * ty.row_bytes(4096).expect("whole blocks");
        assert!(layout.bytes() >= file && layout.bytes() * 100 <= file * 104, "{ty:?}: {} for {file}", layout.bytes());
    }
    assert!(QuantLayout::new(WeightType::F16, 16, 256).is_err());
    assert!(QuantLayout::new(WeightType::Q4K, 16, 32).is_err());
}
