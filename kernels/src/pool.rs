//! The threads that compute a step. (Sequential until the real pool lands.)

/// Runs tiles of work; the caller is one of the workers.
#[derive(Debug)]
pub struct ThreadPool {
    threads: usize,
}

impl ThreadPool {
    /// A pool of `threads` workers, the caller included.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }

    /// Workers, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `f(tile)` once for every tile in `0..tiles` and returns when all are done.
    pub fn run(&self, tiles: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..tiles).for_each(f);
    }
}
