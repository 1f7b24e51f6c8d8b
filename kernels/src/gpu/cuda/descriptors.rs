//! cublasLt's objects, each destroyed when dropped: handle, description, layout, preference.

use std::ptr;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t,
    cublasLtReductionScheme_t, cudaDataType_t,
};

use super::super::device::GpuError;
use super::super::launch::DevicePtr;

/// Alignment that operands have at least, in bytes. The heuristic assumes 256 unless told.
pub(super) const ALIGNMENT: u32 = 16;

/// `cublasOperation_t`, which belongs to cuBLAS and not to cublasLt: as it lies, transposed.
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// What a candidate may use.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Scratch memory, in bytes.
    pub(super) workspace: usize,
    /// Several blocks may share a sum along k. They add it up in f32 in either case: partial sums in the output's type
    /// or in place would round to 8 bits of mantissa.
    pub(super) split_k: bool,
}

/// The library.
pub(super) struct Handle(cublasLtHandle_t);

impl Handle {
    pub(super) fn raw(&self) -> cublasLtHandle_t {
        self.0
    }

    /// Starts the library on the current context.
    pub(super) fn new() -> Result<Self, GpuError> {
        result::create_handle().map(Self).map_err(failed("cublasLtCreate"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// Transposition, types and epilogue.
pub(super) struct Desc(cublasLtMatmulDesc_t);

impl Desc {
    pub(super) fn raw(&self) -> cublasLtMatmulDesc_t {
        self.0
    }

    pub(super) fn new(bias: DevicePtr, half: cudaDataType_t) -> Result<Self, GpuError> {
        use cublasLtMatmulDescAttributes_t::*;
        let (compute, scale) = (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F);
        let desc = Self(result::create_matmul_desc(compute, scale).map_err(failed("cublasLtMatmulDescCreate"))?);
        desc.set(CUBLASLT_MATMUL_DESC_TRANSA, &OP_T)?;
        desc.set(CUBLASLT_MATMUL_DESC_TRANSB, &OP_N)?;
        if bias != DevicePtr::NULL {
            desc.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            desc.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
            // Otherwise it is read as of the output's type.
            desc.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &half)?;
        }
        Ok(desc)
    }

    fn set<T>(&self, attribute: cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), GpuError> {
        // SAFETY: the description is alive; the value is read, and its size compared with the attribute's.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
            .map_err(failed("cublasLtMatmulDescSetAttribute"))
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A column-major matrix without gaps.
pub(super) struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    pub(super) fn raw(&self) -> cublasLtMatrixLayout_t {
        self.0
    }

    pub(super) fn new(data: cudaDataType_t, rows: usize, columns: usize) -> Result<Self, GpuError> {
        result::create_matrix_layout(data, rows as u64, columns as u64, rows as i64)
            .map(Self)
            .map_err(failed("cublasLtMatrixLayoutCreate"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the heuristic may choose from.
pub(super) struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    pub(super) fn raw(&self) -> cublasLtMatmulPreference_t {
        self.0
    }

    pub(super) fn new(limits: Limits) -> Result<Self, GpuError> {
        use cublasLtMatmulPreferenceAttributes_t::*;
        let preference = Self(result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?);
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(limits.workspace as u64))?;
        // A mask of the ways to add up partial sums; without any, only algorithms without partial sums are left.
        let reduction = if limits.split_k {
            cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
        } else {
            cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE
        };
        preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction)?;
        for operand in [
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, &ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, attribute: cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<(), GpuError> {
        // SAFETY: the preference is alive; the value is read, and its size compared with the attribute's.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) }
            .map_err(failed("cublasLtMatmulPreferenceSetAttribute"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn failed(call: &'static str) -> impl FnOnce(CublasError) -> GpuError {
    move |error| GpuError::Call { call, reason: format!("{:?}", error.0) }
}
