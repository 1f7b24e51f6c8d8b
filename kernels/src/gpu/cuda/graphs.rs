//! Captured sequences of operations.

use std::ptr;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::super::device::{GpuError, GraphId};
use super::context::Context;
use super::error::check;

/// Whether operations are executed or recorded.
enum State {
    Executing,
    Capturing,
    /// An operation failed while capturing: what is recorded has a hole.
    Failed(GpuError),
}

/// The graphs of a device.
pub(super) struct Graphs {
    executables: Vec<CUgraphExec>,
    state: State,
}

impl Graphs {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { executables: Vec::new(), state: State::Executing }
    }

    /// True between [`Self::begin`] and [`Self::end`].
    pub(super) fn is_capturing(&self) -> bool {
        !matches!(self.state, State::Executing)
    }

    /// Refuses what can't be captured; the driver would end the capture.
    pub(super) fn outside(&mut self, operation: &str) -> Result<(), GpuError> {
        if !self.is_capturing() {
            return Ok(());
        }
        self.note(Err(GpuError::Operand(format!("{operation} can't be captured"))))
    }

    /// Keeps the first error of an operation that was to be captured.
    pub(super) fn note<T>(&mut self, result: Result<T, GpuError>) -> Result<T, GpuError> {
        if let (State::Capturing, Err(error)) = (&self.state, &result) {
            self.state = State::Failed(error.clone());
        }
        result
    }

    /// Starts a capture. Thread-local: other threads may allocate and load meanwhile.
    pub(super) fn begin(&mut self, context: &Context) -> Result<(), GpuError> {
        self.outside("a capture")?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and, as the state says, not captured.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(context.stream(), mode) })?;
        self.state = State::Capturing;
        Ok(())
    }

    /// Ends a capture, whatever happened in it, and makes its graph executable.
    pub(super) fn end(&mut self, context: &Context) -> Result<GraphId, GpuError> {
        let state = std::mem::replace(&mut self.state, State::Executing);
        if matches!(state, State::Executing) {
            return Err(GpuError::Operand("end of a capture that has not begun".to_owned()));
        }
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is alive; a handle, or null, is written.
        let ended = check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(context.stream(), &mut graph) });
        let graph = Recorded(graph);
        if let State::Failed(error) = state {
            return Err(error);
        }
        ended?;
        let mut executable = ptr::null_mut();
        // SAFETY: the graph is alive; a handle is written.
        let result = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph.0, 0) };
        check("cuGraphInstantiateWithFlags", result)?;
        self.executables.push(executable);
        // SAFETY: both handles are alive.
        check("cuGraphUpload", unsafe { sys::cuGraphUpload(executable, context.stream()) })?;
        Ok(GraphId(self.executables.len() - 1))
    }

    /// Issues a graph.
    pub(super) fn replay(&mut self, context: &Context, graph: GraphId) -> Result<(), GpuError> {
        self.outside("a graph's replay")?;
        let Some(&executable) = self.executables.get(graph.0) else {
            return Err(GpuError::Operand(format!("there is no graph {}", graph.0)));
        };
        // SAFETY: both handles are alive.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(executable, context.stream()) })
    }

    /// Ends a capture that nobody will end.
    pub(super) fn abandon(&mut self, context: &Context) {
        if self.is_capturing() {
            self.state = State::Failed(GpuError::Operand("the device is dropped".to_owned()));
            let _ = self.end(context);
        }
    }
}

impl Drop for Graphs {
    fn drop(&mut self) {
        for &executable in &self.executables {
            // SAFETY: made by `end` and destroyed once; the device's drop has waited for all that ran.
            let _ = unsafe { sys::cuGraphExecDestroy(executable) };
        }
    }
}

/// A graph as captured; null when the capture failed.
struct Recorded(CUgraph);

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by cuStreamEndCapture and destroyed once.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_of_a_capture_is_kept() {
        let mut graphs = Graphs::new();
        assert_eq!(graphs.outside("a write"), Ok(()));
        assert!(graphs.note::<()>(Err(GpuError::Operand("eager".to_owned()))).is_err());
        assert!(!graphs.is_capturing());

        graphs.state = State::Capturing;
        assert_eq!(graphs.note(Ok(1)), Ok(1));
        assert_eq!(graphs.outside("a write"), Err(GpuError::Operand("a write can't be captured".to_owned())));
        assert!(graphs.note::<()>(Err(GpuError::Operand("second".to_owned()))).is_err());
        let State::Failed(first) = &graphs.state else { panic!("no failure is kept") };
        assert_eq!(first.to_string(), "a write can't be captured");
    }
}
