//! What the results of the driver and of cublasLt mean to a caller.

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::sys::CUresult;

use super::super::device::GpuError;

/// Turns a driver's result into ours.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), GpuError> {
    check_for(call, result, String::new)
}

/// Like [`check`]; `what` adds to the message what the call was about.
pub(super) fn check_for(call: &'static str, result: CUresult, what: impl FnOnce() -> String) -> Result<(), GpuError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let reason = format!("{result:?}{}", what());
    Err(if is_sticky(result) { GpuError::Lost { call, reason } } else { GpuError::Call { call, reason } })
}

/// Turns a status of cublasLt into our result. An execution that failed shows in the driver's next result whether the
/// card is lost.
pub(super) fn check_lt(
    call: &'static str,
    status: cublasStatus_t,
    what: impl FnOnce() -> String,
) -> Result<(), GpuError> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        _ => Err(GpuError::Call { call, reason: format!("{status:?}{}", what()) }),
    }
}

/// Results after which the context answers every call with the same result ("the process must be terminated and
/// relaunched", CUDA driver API, `CUresult`), or that say that the card or the context is no longer there.
pub(super) fn is_sticky(result: CUresult) -> bool {
    use CUresult::*;
    matches!(
        result,
        CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_MPS_CONNECTION_FAILED
            | CUDA_ERROR_MPS_RPC_FAILURE
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_EXTERNAL_DEVICE
            // Not said to stick, but what a card that fell off the bus gives.
            | CUDA_ERROR_UNKNOWN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_results_lose_the_card() {
        for result in [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        ] {
            let error = check("cuStreamSynchronize", result).expect_err("an error");
            assert!(error.is_fatal(), "{result:?}");
            let text = error.to_string();
            assert!(text.contains("cuStreamSynchronize") && text.contains(&format!("{result:?}")), "{text}");
        }
    }

    #[test]
    fn other_results_do_not() {
        for result in [
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUresult::CUDA_ERROR_NOT_READY,
        ] {
            let error = check_for("cuLaunchKernelEx", result, || " for k".to_owned()).expect_err("an error");
            assert!(!error.is_fatal(), "{result:?}");
            assert_eq!(error.to_string(), format!("cuLaunchKernelEx: {result:?} for k"));
        }
        assert_eq!(check("cuInit", CUresult::CUDA_SUCCESS), Ok(()));
    }

    #[test]
    fn statuses_are_named() {
        assert_eq!(check_lt("cublasLtMatmul", cublasStatus_t::CUBLAS_STATUS_SUCCESS, String::new), Ok(()));
        let status = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
        let error = check_lt("cublasLtMatmul", status, || " for m 1".to_owned()).expect_err("an error");
        assert_eq!(error.to_string(), "cublasLtMatmul: CUBLAS_STATUS_NOT_SUPPORTED for m 1");
    }
}
