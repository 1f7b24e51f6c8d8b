//! Bytes on their way to the device, made by several threads: weights come from a mapped file, whose pages arrive faster
//! that way, and packing them is work.

use std::num::NonZero;
use std::thread;

use super::device::{Fill, GpuError};

/// Bytes that a thread more is worth.
const THREAD_BYTES: usize = 1 << 20;

/// Most threads.
const MAX_THREADS: usize = 16;

/// Fills `out`, whose first byte is number `first` of all, in pieces that begin at multiples of `unit` bytes.
///
/// # Errors
/// The first error of `fill`.
pub fn fill_parallel(fill: Fill<'_>, first: usize, unit: usize, out: &mut [u8]) -> Result<(), GpuError> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = (out.len() / THREAD_BYTES).clamp(1, cpus.min(MAX_THREADS));
    if threads == 1 {
        return fill(first, out);
    }
    let piece = out.len().div_ceil(threads).next_multiple_of(unit);
    thread::scope(|scope| {
        let pieces = out.chunks_mut(piece).enumerate();
        let workers: Vec<_> =
            pieces.map(|(index, out)| scope.spawn(move || fill(first + index * piece, out))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_meet_without_a_gap_and_begin_at_units() {
        for (units, unit) in [(0, 1), (1, 7), (THREAD_BYTES, 1), (3 * THREAD_BYTES / 10 + 5, 10), (9, THREAD_BYTES + 1)]
        {
            let mut out = vec![0; units * unit];
            let made = fill_parallel(
                &|at, piece| {
                    assert_eq!(at % unit, 0);
                    piece.iter_mut().zip(at..).for_each(|(byte, at)| *byte = (at % 251) as u8 + 1);
                    Ok(())
                },
                unit,
                unit,
                &mut out,
            );
            assert_eq!(made, Ok(()));
            assert!(out.iter().zip(unit..).all(|(&byte, at)| byte == (at % 251) as u8 + 1), "{units} of {unit}");
        }
    }

    #[test]
    fn an_error_of_any_thread_comes_back() {
        let error = GpuError::Operand("odd".to_owned());
        let fails = |at: usize, _: &mut [u8]| if at > 0 { Err(error.clone()) } else { Ok(()) };
        assert_eq!(
            fill_parallel(&fails, 0, 1, &mut vec![0; 4 * THREAD_BYTES]),
            if thread::available_parallelism().map_or(1, NonZero::get) > 1 { Err(error.clone()) } else { Ok(()) }
        );
    }
}
