//! A kernel launch as a value.

/// Most bytes a kernel's parameter struct may have.
pub const MAX_PARAM_BYTES: usize = 256;

/// Address of device memory; 0 stands for an absent operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No operand.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    pub fn byte_add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Element type of activations, dense weights and 16-bit caches on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HalfType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl HalfType {
    /// Suffix of kernel names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// The one argument of a kernel: a struct of plain numbers and addresses, passed by value.
///
/// # Safety
/// `repr(C)`, no padding, no references, and the same fields as the struct of that name in the `.cu` file.
pub unsafe trait Params: Copy + 'static {
    /// Name of the struct in the `.cu` file.
    const NAME: &'static str;
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// File of `kernels/cuda` without its extension.
    pub module: &'static str,
    /// Name of the kernel in it.
    pub kernel: String,
    /// Blocks in x, y, z. With a 0 there is nothing to do, and executors skip the launch.
    pub grid: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
    /// May begin before the kernel in front of it has ended (programmatic dependent launch, sm_90 on): the kernel calls
    /// `wait_for_previous()` before it reads what that one wrote.
    pub overlap: bool,
    params: [u8; MAX_PARAM_BYTES],
    params_len: usize,
}

impl Launch {
    /// A launch of `kernel` on one block of one thread; the caller sets the sizes.
    pub fn new<P: Params>(module: &'static str, kernel: impl Into<String>, params: &P) -> Self {
        const { assert!(size_of::<P>() <= MAX_PARAM_BYTES) };
        let mut bytes = [0; MAX_PARAM_BYTES];
        // SAFETY: `Params` has no padding, so all its bytes are initialised; the length is checked above.
        let source = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(params).cast::<u8>(), size_of::<P>()) };
        bytes[..source.len()].copy_from_slice(source);
        Self {
            module,
            kernel: kernel.into(),
            grid: [1; 3],
            threads: 1,
            shared_bytes: 0,
            overlap: false,
            params: bytes,
            params_len: source.len(),
        }
    }

    /// The parameter struct's bytes.
    pub fn params(&self) -> &[u8] {
        &self.params[..self.params_len]
    }
}
