//! The engine: one thread that schedules, executes, samples, commits and emits.

mod handle;

pub use handle::{
    Command, EngineEnd, EngineHandle, EngineInfo, EngineRequest, EngineStats, RequestStream, SubmitError,
    engine_channel,
};
