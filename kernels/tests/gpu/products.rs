//! Which kernel computes a product, and that the choice doesn't show in the results.

use half::bf16;
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::gemv::GemvOutput;
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};
use sconce_kernels::gpu::product::{Product, Products};
use sconce_kernels::gpu::verify::packed::random_blocks;
use sconce_kernels::gpu::verify::{Half, Random, assert_close, floats};
use sconce_kernels::gpu::weights::{GpuLinear, upload_linear};
use sconce_kernels::linear::MatrixView;

use super::emu::{EmulatedDevice, Issued, emulated_device};

const K: usize = 64;
const N: usize = 48;
const ROWS: usize = 520;

/// A device with `x[ROWS, K]` and room for `y` and an expanded matrix.
struct Bench {
    device: EmulatedDevice,
    x: DevicePtr,
    y: DevicePtr,
    workspace: DevicePtr,
}

impl Bench {
    fn new(mut device: EmulatedDevice) -> Self {
        let mut place = |bytes| device.alloc(bytes, "a test").expect("memory");
        let (x, y, workspace) = (place(ROWS * K * 2), place(ROWS * N * 2), place(N * K * 2));
        let values: Vec<bf16> = Random(1).halves(ROWS * K);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        device.write(x, &bytes).expect("write");
        Self { device, x, y, workspace }
    }

    /// `N` rows: half of the one type, half of the other.
    fn linear(&mut self, types: [WeightType; 2]) -> GpuLinear {
        let mut random = Random(2);
        let data = types.map(|ty| match ty {
            WeightType::BF16 => {
                let values: Vec<bf16> = random.halves(N / 2 * K);
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
            _ => random_blocks(&mut random, ty, N / 2, K),
        });
        let views = [0, 1].map(|i| MatrixView { ty: types[i], rows: N / 2, cols: K, data: &data[i] });
        upload_linear(&mut self.device, HalfType::Bf16, &views, None).expect("upload")
    }

    /// What the first `m` rows become, and how.
    fn run(&mut self, w: &GpuLinear, m: usize, deterministic: bool, expand: bool) -> (Vec<f32>, Vec<String>) {
        let products = Products {
            half: HalfType::Bf16,
            deterministic,
            tuning: false,
            workspace: self.workspace,
            workspace_bytes: if expand { N * K * 2 } else { N * K * 2 - 1 },
        };
        let product = Product { m, x: self.x, norm: None, y: self.y, stride: N, output: GemvOutput::Half };
        self.device.take_issued();
        products.issue(&mut self.device, w, &product).expect("issue");
        let issued = self.device.take_issued().into_iter().map(|issued| match issued {
            Issued::Launch(name) => name,
            Issued::Gemm(..) => "library".to_owned(),
            other => panic!("{other:?}"),
        });
        let issued = issued.collect();
        let mut bytes = vec![0; m * N * 2];
        self.device.read(self.y, &mut bytes).expect("read");
        let y: Vec<bf16> = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect();
        (floats(&y), issued)
    }
}

#[test]
fn the_number_of_rows_chooses_the_kernel() {
    emulated_device(|device| {
        let mut bench = Bench::new(device);
        let (q, p, d) = (WeightType::Q4_0, WeightType::Q8_0, WeightType::BF16);
        let [dense, packed, mixed] = [[d, d], [q, p], [q, d]].map(|types| bench.linear(types));
        let mut names = |w: &GpuLinear, m, deterministic, expand| bench.run(w, m, deterministic, expand).1.join(" ");

        assert_eq!(names(&dense, 8, false, true), "gemv_bf16");
        assert_eq!(names(&dense, 9, false, true), "library");
        assert_eq!(names(&dense, 16, true, true), "gemv_bf16");
        assert_eq!(names(&dense, 17, true, true), "gemm_small_bf16");

        assert_eq!(names(&packed, 16, false, true), "gemv_q4_0_bf16 gemv_q8_0_bf16");
        assert_eq!(names(&packed, 17, false, true), "gemm_small_q4_0_bf16 gemm_small_q8_0_bf16");
        assert_eq!(names(&packed, 513, false, true), "dequant_q4_0_bf16 dequant_q8_0_bf16 library");
        // No room to expand it, or the library may not.
        for (deterministic, expand) in [(false, false), (true, true)] {
            let tiles = "gemm_small_q4_0_bf16 gemm_small_q8_0_bf16";
            assert_eq!(names(&packed, 513, deterministic, expand), tiles);
        }
        assert_eq!(names(&mixed, 513, false, true), "gemm_small_q4_0_bf16 gemm_small_bf16");
    });
}

#[test]
fn whatever_computes_it_a_product_is_the_same() {
    emulated_device(|device| {
        let mut bench = Bench::new(device);
        for types in [[WeightType::BF16; 2], [WeightType::Q8_0, WeightType::Q5_0], [WeightType::Q4_1, WeightType::BF16]]
        {
            let w = bench.linear(types);
            let (want, _) = bench.run(&w, ROWS, true, true);
            // Sums in another order, and twice the rounding: of the result, and of the weight where it is expanded.
            let (all, _) = bench.run(&w, ROWS, false, true);
            assert_close(&all, &want, 2.0 * bf16::ROUNDING, 16.0 * bf16::ROUNDING).expect("close");
            for m in [1, 8, 16, 17, 64, 65, 512] {
                let (rows, _) = bench.run(&w, m, true, true);
                assert!(rows == want[..m * N], "{types:?}: {m} rows");
            }
        }
    });
}
