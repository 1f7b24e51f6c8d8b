//! From what the user named to a running engine, phase by phase.

use std::sync::Arc;

use super::CliError;
use super::banner::Phases;
use crate::config::{Config, GenerationConfig};
use crate::engine::EngineHandle;
use crate::hub::{Hub, HubSettings, ModelRef, Progress, ResolvedModel};
use crate::runtime;
use crate::telemetry::Telemetry;
use crate::text::{TextModel, TextOptions};

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

/// Loads the model and starts its engine.
pub(super) async fn load(
    config: &Config,
    model: ResolvedModel,
    telemetry: Arc<Telemetry>,
    phases: &mut Phases,
) -> Result<Loaded, CliError> {
    let engine = config.engine.clone();
    let options = TextOptions {
        chat_template: config.chat_template.clone(),
        use_generation_config: config.generation_config == GenerationConfig::Auto,
    };
    // Loading computes for a while: not on a thread that answers probes.
    let started = tokio::task::spawn_blocking(move || {
        runtime::start(&model.path, &engine, &options, Some(telemetry), &mut |_, _| {})
    });
    let started = started.await.map_err(|e| CliError::Failed(format!("loading the model failed: {e}")))?;
    let started = started.map_err(|e| CliError::Failed(e.to_string()))?;
    for phase in started.phases.iter() {
        phases.record(phase.name, phase.time);
    }
    phases.done("load the model");
    Ok(Loaded { engine: started.engine.clone(), text: started.text.clone() })
}
