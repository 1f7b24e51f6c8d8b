//! The pool computes every tile once, survives panics and nesting, and loses no wake-up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

#[test]
fn every_tile_runs_exactly_once() {
    for threads in [1, 2, 3, 8] {
        let pool = ThreadPool::new(threads);
        for tiles in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tiles).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tiles, &|tile| {
                counts[tile].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
        }
    }
}

#[test]
fn many_small_runs_lose_no_wake_up() {
    let pool = ThreadPool::new(3);
    let sum = AtomicUsize::new(0);
    for run in 0..2000 {
        if run % 100 == 0 {
            // Let the workers fall asleep, so that both ways of waking are used.
            let begin = Instant::now();
            while pool.shared.sleeping.load(SeqCst) < 2 && begin.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
        }
        pool.run(4, &|tile| {
            sum.fetch_add(tile + 1, SeqCst);
        });
    }
    assert_eq!(sum.load(SeqCst), 2000 * 10);
}

#[test]
fn a_sleeping_worker_is_woken_and_takes_part() {
    let pool = ThreadPool::new(2);
    while pool.shared.sleeping.load(SeqCst) < 1 {
        std::thread::yield_now();
    }
    // Two tiles that wait for each other need two threads.
    let arrived = AtomicUsize::new(0);
    pool.run(2, &|_| {
        arrived.fetch_add(1, SeqCst);
        while arrived.load(SeqCst) < 2 {
            std::thread::yield_now();
        }
    });
    assert_eq!(arrived.load(SeqCst), 2);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let pool = ThreadPool::new(3);
    for round in 0..50 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(16, &|tile| assert!(tile != round % 16, "tile {tile} fails"));
        }));
        let payload = result.expect_err("the panic must be resumed");
        let message = payload.downcast_ref::<String>().expect("the original payload");
        assert_eq!(*message, format!("tile {} fails", round % 16));
        let count = AtomicUsize::new(0);
        pool.run(16, &|_| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.load(SeqCst), 16);
    }
}

#[test]
fn nested_and_concurrent_runs_finish() {
    let pool = ThreadPool::new(3);
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.run(5, &|_| {
                        pool.run(3, &|_| {
                            count.fetch_add(1, SeqCst);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(count.load(SeqCst), 4 * 50 * 15);
}

#[test]
fn chunks_cover_the_slice_in_order() {
    let pool = ThreadPool::new(2);
    let mut data = vec![0usize; 103];
    pool.run_chunks(&mut data, 10, &|index, chunk| {
        let start = index * 10;
        chunk.iter_mut().enumerate().for_each(|(offset, value)| *value = start + offset);
    });
    assert!(data.iter().enumerate().all(|(index, &value)| index == value));
}

#[test]
fn dropping_joins_spinning_and_sleeping_workers() {
    for _ in 0..20 {
        let pool = ThreadPool::new(4);
        pool.run(8, &|_| {});
    }
}
