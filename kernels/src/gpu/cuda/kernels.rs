//! The compiled kernels on the card: modules loaded when a kernel of theirs is first launched, launches.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;

use cudarc::driver::sys::{
    self, CUfunction, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchConfig, CUmodule, CUresult, CUstream,
};

use super::super::device::GpuError;
use super::super::launch::Launch;
use super::super::modules;
use super::error::{check, check_for};

/// Shared memory that any kernel may use; more needs an attribute.
const PLAIN_SHARED_BYTES: usize = 48 << 10;

/// A kernel.
struct Function {
    handle: CUfunction,
    /// Bytes of its one parameter.
    params_bytes: usize,
    /// Shared memory of its own, in bytes.
    static_bytes: usize,
    /// Its dynamic shared memory may pass [`PLAIN_SHARED_BYTES`].
    is_raised: bool,
}

/// Modules by name, kernels by name.
pub(super) struct Kernels {
    modules: HashMap<&'static str, CUmodule>,
    functions: HashMap<String, Function>,
    /// Shared memory that a block may ask for, its static part included, in bytes.
    shared_limit: usize,
}

impl Kernels {
    /// None loaded yet.
    pub(super) fn new(shared_limit: usize) -> Self {
        Self { modules: HashMap::new(), functions: HashMap::new(), shared_limit }
    }

    /// Issues a launch. `overlap` lets it begin before the kernel in front of it has ended; `is_capturing` refuses a
    /// kernel that is not loaded, since loading is no part of a graph.
    pub(super) fn launch(
        &mut self,
        launch: &Launch,
        stream: CUstream,
        overlap: bool,
        is_capturing: bool,
    ) -> Result<(), GpuError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let shared_limit = self.shared_limit;
        let function = self.function(launch, is_capturing)?;
        if function.params_bytes != launch.params().len() {
            let (ours, theirs) = (launch.params().len(), function.params_bytes);
            return Err(operand(launch, format!("takes {theirs} bytes of parameters, not {ours}")));
        }
        let shared = launch.shared_bytes as usize;
        if function.static_bytes + shared > PLAIN_SHARED_BYTES && !function.is_raised {
            function.raise_shared(launch, shared_limit)?;
        }
        if function.static_bytes + shared > shared_limit {
            let bytes = function.static_bytes + shared;
            return Err(operand(launch, format!("needs {bytes} bytes of shared memory, a block has {shared_limit}")));
        }
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: stream,
            attrs: &mut attribute,
            numAttrs: u32::from(overlap),
        };
        let mut params = [launch.params().as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function and the stream are alive; its one parameter has as many bytes as the driver copies from
        // behind the pointer, which was compared above; attribute and configuration outlive the call.
        let result = unsafe { sys::cuLaunchKernelEx(&config, function.handle, params.as_mut_ptr(), ptr::null_mut()) };
        check_for("cuLaunchKernelEx", result, || describe(launch))
    }

    /// The kernel of a launch, loaded when it is the first.
    fn function(&mut self, launch: &Launch, is_capturing: bool) -> Result<&mut Function, GpuError> {
        if !self.functions.contains_key(&launch.kernel) {
            if is_capturing {
                return Err(operand(launch, "is not loaded: launch it once before the capture".to_owned()));
            }
            let module = self.module(launch)?;
            let function = Function::load(module, launch)?;
            self.functions.insert(launch.kernel.clone(), function);
        }
        self.functions.get_mut(&launch.kernel).ok_or_else(|| operand(launch, "is not there".to_owned()))
    }

    fn module(&mut self, launch: &Launch) -> Result<CUmodule, GpuError> {
        if let Some(&module) = self.modules.get(launch.module) {
            return Ok(module);
        }
        let binary = modules::fat_binary(launch.module).filter(|binary| !binary.is_empty());
        let Some(binary) = binary else {
            return Err(operand(launch, format!("lies in {}.cu, which this build leaves out", launch.module)));
        };
        let mut module = ptr::null_mut();
        // SAFETY: a whole fat binary, made by nvcc and aligned, that lives as long as the process.
        let result = unsafe { sys::cuModuleLoadData(&mut module, binary.as_ptr().cast()) };
        check_for("cuModuleLoadData", result, || format!(" for module {}", launch.module))?;
        self.modules.insert(launch.module, module);
        Ok(module)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for &module in self.modules.values() {
            // SAFETY: loaded by `module`, unloaded once; the device's drop has waited for all that ran.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

impl Function {
    fn load(module: CUmodule, launch: &Launch) -> Result<Self, GpuError> {
        let what = || format!(" for {}", launch.kernel);
        let name = CString::new(launch.kernel.as_str()).map_err(|_| operand(launch, "has a NUL".to_owned()))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with a NUL, a handle is written.
        let result = unsafe { sys::cuModuleGetFunction(&mut handle, module, name.as_ptr()) };
        check_for("cuModuleGetFunction", result, what)?;
        let (mut offset, mut params_bytes) = (0, 0);
        // SAFETY: the function is loaded; two numbers are written.
        let result = unsafe { sys::cuFuncGetParamInfo(handle, 0, &mut offset, &mut params_bytes) };
        check_for("cuFuncGetParamInfo", result, what)?;
        // SAFETY: as above. A second parameter would be read from behind our list of one.
        if unsafe { sys::cuFuncGetParamInfo(handle, 1, &mut offset, &mut 0) } == CUresult::CUDA_SUCCESS {
            return Err(operand(launch, "takes more than one parameter".to_owned()));
        }
        let mut static_bytes = 0;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut static_bytes, attribute, handle) })?;
        let static_bytes = usize::try_from(static_bytes).unwrap_or(0);
        Ok(Self { handle, params_bytes, static_bytes, is_raised: false })
    }

    /// Allows all the dynamic shared memory that the card has.
    fn raise_shared(&mut self, launch: &Launch, shared_limit: usize) -> Result<(), GpuError> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(shared_limit.saturating_sub(self.static_bytes)).unwrap_or(i32::MAX);
        // SAFETY: the function is loaded.
        let result = unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes) };
        check_for("cuFuncSetAttribute", result, || format!(" for {}, {bytes} bytes", launch.kernel))?;
        self.is_raised = true;
        Ok(())
    }
}

fn operand(launch: &Launch, text: String) -> GpuError {
    GpuError::Operand(format!("kernel {} {text}", launch.kernel))
}

/// What an error of a launch says beside the driver's word.
fn describe(launch: &Launch) -> String {
    let Launch { kernel, grid: [x, y, z], threads, shared_bytes, .. } = launch;
    format!(" for {kernel}, grid {x} x {y} x {z}, {threads} threads, {shared_bytes} bytes of shared memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::launch::{DevicePtr, Params};

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct NoParams {
        x: DevicePtr,
    }

    // SAFETY: one address, no padding; never launched.
    unsafe impl Params for NoParams {
        const NAME: &'static str = "NoParams";
    }

    #[test]
    fn what_needs_no_card_is_refused_without_one() {
        let mut kernels = Kernels::new(99 << 10);
        let mut launch = Launch::new("norm", "no_such", &NoParams { x: DevicePtr::NULL });
        launch.grid = [1, 0, 1];
        assert_eq!(kernels.launch(&launch, ptr::null_mut(), false, false), Ok(()), "nothing to do");

        launch.grid = [1, 1, 1];
        let error = kernels.launch(&launch, ptr::null_mut(), false, true).expect_err("capturing").to_string();
        assert_eq!(error, "kernel no_such is not loaded: launch it once before the capture");

        launch.module = "nonsense";
        let error = kernels.launch(&launch, ptr::null_mut(), false, false).expect_err("no module").to_string();
        assert_eq!(error, "kernel no_such lies in nonsense.cu, which this build leaves out");
    }

    #[test]
    fn errors_name_the_kernel_and_its_sizes() {
        let mut launch = Launch::new("norm", "rms_norm_bf16", &NoParams { x: DevicePtr::NULL });
        (launch.grid, launch.threads, launch.shared_bytes) = ([3, 2, 1], 256, 64);
        let text = describe(&launch);
        assert_eq!(text, " for rms_norm_bf16, grid 3 x 2 x 1, 256 threads, 64 bytes of shared memory");
    }
}
