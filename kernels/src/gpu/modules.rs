//! The compiled kernels that `build.rs` embeds: a fat binary a file of `kernels/cuda`.

/// Aligns its content as the driver reads it.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Module name (the file's, without extension) and fat binary, ascending by name.
static MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Names of all modules.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODULES.iter().map(|(name, _)| *name)
}

/// The fat binary of a module, for `cuModuleLoadData`; `None` for a file that this build's architectures leave out.
pub fn fat_binary(module: &str) -> Option<&'static [u8]> {
    MODULES.iter().find(|(name, _)| *name == module).map(|(_, binary)| *binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fat_binaries_are_embedded_and_aligned() {
        let norm = fat_binary("norm").expect("norm.cu");
        assert!(norm.as_ptr().addr().is_multiple_of(64));
        assert!(names().all(|name| fat_binary(name).is_some()));
        assert!(fat_binary("nonsense").is_none());
    }
}
