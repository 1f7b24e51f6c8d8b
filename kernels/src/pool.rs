//! The threads that compute a step: the caller and its workers claim tiles from one counter.
//!
//! A run is opened by one atomic word holding its number, an open bit and how many workers are
//! inside. Workers enter only while it is open, so a worker that the system does not schedule is
//! never waited for: the caller finishes the tiles itself. Idle workers spin for a short while
//! (steps follow each other closely) and then sleep on a condition variable.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// `State` layout: run number << 32 | open << 31 | workers inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

thread_local! {
    /// This thread is computing a tile: a nested run would wait for itself.
    static IN_TILE: Cell<bool> = const { Cell::new(false) };
}

/// Runs tiles of work; the caller is one of the workers.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time; others wait here.
    turn: Mutex<()>,
}

struct Job {
    task: Task<'static>,
    tiles: usize,
}

struct Shared {
    state: AtomicU64,
    /// Written only while the run is closed and nobody is inside, read only from inside.
    job: UnsafeCell<Option<Job>>,
    next_tile: AtomicUsize,
    /// First panic of the run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    shutdown: AtomicBool,
    /// Workers that sleep or are about to; changed under `sleep`.
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The caller sleeps until the last worker has left.
    caller_waits: AtomicBool,
    left: Condvar,
}

// SAFETY: `job` is the only field that is not Sync by itself; the protocol above orders its accesses.
unsafe impl Sync for Shared {}
// SAFETY: as above; the task it holds is a reference to a Sync closure.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// A pool of `threads` workers, the caller included. If the system refuses a thread, the pool is smaller.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next_tile: AtomicUsize::new(0),
            panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            caller_waits: AtomicBool::new(false),
            left: Condvar::new(),
        });
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("sconce-cpu-{index}")).spawn(move || shared.work()).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(tile)` once for every tile in `0..tiles` and returns when all are done. Which thread
    /// computes which tile is open, so a tile must not depend on it. A run inside a tile is computed
    /// by that tile's thread alone; runs of several threads take turns.
    ///
    /// # Panics
    /// Resumes the first panic of a tile after every worker has left; tiles not yet begun are dropped.
    pub fn run(&self, tiles: usize, f: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tiles <= 1 || IN_TILE.get() {
            (0..tiles).for_each(f);
            return;
        }
        let turn = lock(&self.turn);
        self.shared.open(f, tiles);
        self.shared.compute(f, tiles);
        self.shared.close();
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Cuts `data` into chunks of `chunk_len` (the last may be shorter) and calls `f(index, chunk)` for each.
    pub fn run_chunks<T: Send>(&self, data: &mut [T], chunk_len: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (len, chunk_len) = (data.len(), chunk_len.max(1));
        let shared = DisjointMut::new(data);
        self.run(len.div_ceil(chunk_len), &|tile| {
            let start = tile * chunk_len;
            // SAFETY: every tile index runs exactly once, and chunks of different tiles do not overlap.
            let chunk = unsafe { shared.slice(start, chunk_len.min(len - start)) };
            f(tile, chunk);
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics outside `compute`, which catches; nothing to report.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

impl Shared {
    /// Publishes a run and wakes as many sleepers as it has tiles for.
    fn open(&self, f: Task<'_>, tiles: usize) {
        // SAFETY: only the lifetime changes. `close` returns after the last worker inside has left, and
        // none can enter later, so no use of the task outlives `run`'s borrow of it.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(f) };
        // SAFETY: the caller holds `turn`, the last run is closed and empty: nobody else touches the job.
        unsafe { *self.job.get() = Some(Job { task, tiles }) };
        self.next_tile.store(0, SeqCst);
        let number = (self.state.load(SeqCst) >> 32).wrapping_add(1);
        self.state.store(number << 32 | OPEN, SeqCst);
        // A worker counts itself before it looks at `state`, so either it sees this run or we see it.
        let sleeping = self.sleeping.load(SeqCst).min(tiles - 1);
        if sleeping > 0 {
            drop(lock(&self.sleep));
            (0..sleeping).for_each(|_| self.wake.notify_one());
        }
    }

    /// Claims and computes tiles until none is left; a panic is kept and empties the counter.
    fn compute(&self, task: Task<'_>, tiles: usize) {
        IN_TILE.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let tile = self.next_tile.fetch_add(1, SeqCst);
                if tile >= tiles {
                    break;
                }
                task(tile);
            }
        }));
        IN_TILE.set(false);
        if let Err(payload) = result {
            self.next_tile.store(tiles, SeqCst);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// Ends the run: nobody enters any more; returns when the last worker inside has left.
    fn close(&self) {
        if self.state.fetch_and(!OPEN, SeqCst) & INSIDE != 0 && !self.spin_until(|| self.inside() == 0) {
            self.caller_waits.store(true, SeqCst);
            let mut guard = lock(&self.sleep);
            while self.inside() != 0 {
                guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            self.caller_waits.store(false, SeqCst);
        }
        // SAFETY: the run is closed and empty, and the caller holds `turn`.
        unsafe { *self.job.get() = None };
    }

    fn inside(&self) -> u64 {
        self.state.load(SeqCst) & INSIDE
    }

    /// A worker's life.
    fn work(&self) {
        let mut last_run = 0;
        while let Some(run) = self.wait_for_run(last_run) {
            if self.enter(run) {
                // SAFETY: we are inside an open run, so the job was written before it opened and stays.
                let job = unsafe { (*self.job.get()).as_ref() };
                if let Some(job) = job {
                    self.compute(job.task, job.tiles);
                }
                self.leave();
            }
            last_run = run;
        }
    }

    /// Counts this worker in, unless the run closed meanwhile.
    fn enter(&self, run: u64) -> bool {
        let admit = |state: u64| (state >> 32 == run && state & OPEN != 0).then_some(state + 1);
        self.state.fetch_update(SeqCst, SeqCst, admit).is_ok()
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, SeqCst);
        if before & (OPEN | INSIDE) == 1 && self.caller_waits.load(SeqCst) {
            drop(lock(&self.sleep));
            self.left.notify_one();
        }
    }

    /// Number of an open run other than `last_run`; `None` to end. Spins, then sleeps.
    fn wait_for_run(&self, last_run: u64) -> Option<u64> {
        let open = || {
            let state = self.state.load(SeqCst);
            (state & OPEN != 0 && state >> 32 != last_run).then_some(state >> 32)
        };
        let done = || self.shutdown.load(SeqCst);
        if !self.spin_until(|| open().is_some() || done()) {
            let mut guard = lock(&self.sleep);
            self.sleeping.fetch_add(1, SeqCst);
            while open().is_none() && !done() {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleeping.fetch_sub(1, SeqCst);
        }
        // The run may have closed again: then any number but the last one sends us round.
        if done() { None } else { Some(open().unwrap_or(last_run)) }
    }

    /// Spins up to [`SPIN`]; whether the condition came true.
    fn spin_until(&self, condition: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        loop {
            for _ in 0..32 {
                if condition() {
                    return true;
                }
                spin_loop();
            }
            if begin.elapsed() > SPIN {
                return false;
            }
        }
    }
}

/// A lock whose poisoning means nothing: no invariant spans a panic under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice that tiles of one run write at the same time, each its own ranges.
#[derive(Debug)]
pub struct DisjointMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]` handed to several threads in pieces; `slice` demands disjointness.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}
// SAFETY: as `&mut [T]`.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// Wraps a slice for the time of a run.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    /// The elements `start .. start + len`.
    ///
    /// # Safety
    /// No two slices that live at the same time may overlap.
    ///
    /// # Panics
    /// If the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "range leaves the shared slice");
        // SAFETY: inside the wrapped slice, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
