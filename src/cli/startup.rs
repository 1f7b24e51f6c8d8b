//! From what the user named to a running engine, phase by phase.

use std::sync::Arc;

use super::CliError;
use super::banner::Phases;
use crate::config::Config;
use crate::engine::EngineHandle;
use crate::hub::{Hub, HubSettings, ModelRef, Progress, ResolvedModel};
use crate::telemetry::Telemetry;
use crate::text::TextModel;

/// A model that answers.
pub(super) struct Loaded {
    pub(super) engine: EngineHandle,
    pub(super) text: Arc<TextModel>,
}

/// The model's files, downloaded if need be.
pub(super) async fn find(model: Option<&str>, progress: &Progress) -> Result<ResolvedModel, CliError> {
    let reference = ModelRef::parse(model)?;
    Ok(Hub::new(HubSettings::from_env(), progress.clone()).resolve(&reference).await?)
}

/// Loads the model and starts its engine. Not connected to a runtime yet: always an error.
pub(super) async fn load(
    _config: &Config,
    _model: ResolvedModel,
    _telemetry: Arc<Telemetry>,
    _phases: &mut Phases,
) -> Result<Loaded, CliError> {
    Err(CliError::Failed("this build has no runtime to load a model with".to_owned()))
}
