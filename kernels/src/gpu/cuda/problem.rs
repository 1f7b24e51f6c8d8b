//! A matrix product as cublasLt describes it: layouts, candidates of its heuristic, the call.
//!
//! cublasLt is column-major. Row-major `out[m, n] = a[m, k] w[n, k]^T` is column-major `D[n, m] = W^T A` with `W[k, n]`,
//! `A[k, m]`, and leading dimensions k, k and n. `C` is `D`, for `beta` = 1.

use std::ptr;

use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoConfigAttributes_t, cublasLtMatmulHeuristicResult_t, cublasStatus_t,
    cudaDataType_t,
};
use cudarc::driver::sys::CUstream;

use super::super::device::GpuError;
use super::super::gemm::Gemm;
use super::super::launch::{DevicePtr, HalfType};
use super::descriptors::{Desc, Handle, Layout, Limits, Preference};
use super::error::check_lt;
use super::plans::Plan;

/// Candidates asked for.
const MAX_CANDIDATES: usize = 8;

/// A product of a given number of rows.
pub(super) struct Problem {
    desc: Desc,
    w: Layout,
    a: Layout,
    out: Layout,
}

impl Problem {
    /// Describes `gemm` as if it had `m` rows.
    pub(super) fn new(gemm: &Gemm, m: usize) -> Result<Self, GpuError> {
        let half = data_type(gemm.half);
        let out = if gemm.out_f32 { cudaDataType_t::CUDA_R_32F } else { half };
        Ok(Self {
            desc: Desc::new(gemm.bias, half)?,
            w: Layout::new(half, gemm.k, gemm.n)?,
            a: Layout::new(half, gemm.k, m)?,
            out: Layout::new(out, gemm.n, m)?,
        })
    }

    /// Algorithms, the one that cublasLt holds for fastest first. Empty when it has none.
    pub(super) fn candidates(&self, handle: &Handle, limits: Limits) -> Result<Vec<Plan>, GpuError> {
        let preference = Preference::new(limits)?;
        let mut found = [no_result(); MAX_CANDIDATES];
        let mut count = 0;
        // SAFETY: all descriptions are alive; at most as many results are written as there is room for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.raw(),
                self.desc.raw(),
                self.w.raw(),
                self.a.raw(),
                self.out.raw(),
                self.out.raw(),
                preference.raw(),
                MAX_CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        if status == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        check_lt("cublasLtMatmulAlgoGetHeuristic", status, String::new)?;
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        let usable = found.filter(|result| {
            result.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS
                && result.workspaceSize <= limits.workspace
                && (limits.split_k || split_k(&result.algo) <= 1)
        });
        Ok(usable.map(|result| Plan { algo: result.algo.data, workspace: result.workspaceSize, nanos: 0 }).collect())
    }

    /// Whether the algorithm computes this product too.
    pub(super) fn accepts(&self, handle: &Handle, plan: &Plan, limits: Limits) -> bool {
        let (algo, mut result) = (cublasLtMatmulAlgo_t { data: plan.algo }, no_result());
        // SAFETY: all descriptions are alive; one result is written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle.raw(),
                self.desc.raw(),
                self.w.raw(),
                self.a.raw(),
                self.out.raw(),
                self.out.raw(),
                &algo,
                &mut result,
            )
        };
        status == cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= limits.workspace
    }

    /// Issues the product; `gemm` is the one that this describes, of its own number of rows.
    pub(super) fn run(
        &self,
        handle: &Handle,
        gemm: &Gemm,
        plan: &Plan,
        workspace: (DevicePtr, usize),
        stream: CUstream,
    ) -> Result<(), GpuError> {
        let algo = cublasLtMatmulAlgo_t { data: plan.algo };
        let (alpha, beta) = (1.0_f32, if gemm.accumulate { 1.0_f32 } else { 0.0 });
        let address = |pointer: DevicePtr| ptr::without_provenance_mut(pointer.0 as usize);
        // SAFETY: all descriptions are alive, and the operands, by the caller's word, have their sizes; alpha and beta
        // are read before the call returns, since the pointer mode is the host's.
        let status = unsafe {
            sys::cublasLtMatmul(
                handle.raw(),
                self.desc.raw(),
                (&raw const alpha).cast(),
                address(gemm.w),
                self.w.raw(),
                address(gemm.a),
                self.a.raw(),
                (&raw const beta).cast(),
                address(gemm.out),
                self.out.raw(),
                address(gemm.out),
                self.out.raw(),
                &algo,
                address(workspace.0),
                workspace.1,
                stream.cast(),
            )
        };
        check_lt("cublasLtMatmul", status, || describe(gemm))
    }
}

/// What an error says of a product.
pub(super) fn describe(gemm: &Gemm) -> String {
    let Gemm { m, n, k, half, .. } = gemm;
    let flag = |set: bool, text: &'static str| if set { text } else { "" };
    let (out, bias) = (flag(gemm.out_f32, ", f32 output"), flag(gemm.bias != DevicePtr::NULL, ", bias"));
    format!(" for m {m}, n {n}, k {k}, {}{out}{bias}{}", half.name(), flag(gemm.accumulate, ", accumulating"))
}

fn data_type(half: HalfType) -> cudaDataType_t {
    match half {
        HalfType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        HalfType::F16 => cudaDataType_t::CUDA_R_16F,
    }
}

fn no_result() -> cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulHeuristicResult_t {
        algo: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: cublasStatus_t::CUBLAS_STATUS_SUCCESS,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

/// Parts that an algorithm cuts k into; many when it doesn't tell.
fn split_k(algo: &cublasLtMatmulAlgo_t) -> i32 {
    let (mut parts, mut written) = (i32::MAX, 0);
    let attribute = cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM;
    // SAFETY: the attribute is an i32, which is written.
    let status = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            algo,
            attribute,
            (&raw mut parts).cast(),
            size_of::<i32>(),
            &mut written,
        )
    };
    if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS { parts } else { i32::MAX }
}
