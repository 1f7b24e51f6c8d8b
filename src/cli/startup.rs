//! From what the user named to a running engine, phase by phase.

use std::sync::Arc;

use super::CliError;
use super::banner::Phases;
use crate::config::{Config, DEFAULT_MODEL, GenerationConfig};
use crate::hub::{Hub, HubSettings, ModelRef, Progress, ResolvedModel};
use crate::runtime::{Runtime, StartError, start};
use crate::telemetry::Telemetry;
use crate::text::TextOptions;

/// The model's files, downloaded if need be.
pub(super) async fn find(model: Option<&str>, progress: &Progress) -> Result<ResolvedModel, CliError> {
    let reference = ModelRef::parse(model)?;
    Ok(Hub::new(HubSettings::from_env(), progress.clone()).resolve(&reference).await?)
}

/// Loads the model and starts its engine, on a thread of its own: it takes seconds and blocks.
pub(super) async fn load(
    config: &Config,
    model: ResolvedModel,
    telemetry: Option<Arc<Telemetry>>,
    phases: &mut Phases,
) -> Result<Runtime, CliError> {
    let engine = config.engine.clone();
    let text = TextOptions {
        chat_template: config.chat_template.clone(),
        use_generation_config: config.generation_config == GenerationConfig::Auto,
    };
    let progress = Progress::stderr();
    let work = move || {
        let mut bar = None;
        let mut show = |done: usize, total: usize| {
            bar.get_or_insert_with(|| progress.count("loading", total)).set_position(done as u64);
        };
        let runtime = start(&model.path, &engine, &text, telemetry, &mut show);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        runtime
    };
    let runtime = match tokio::task::spawn_blocking(work).await {
        Ok(runtime) => runtime.map_err(|e| CliError::Failed(explain(&e, config.model.as_deref())))?,
        Err(_) => return Err(CliError::Failed("loading the model failed unexpectedly; the log says where".to_owned())),
    };
    phases.done("loading");
    for phase in runtime.phases.iter() {
        phases.part(phase.name, phase.time);
    }
    Ok(runtime)
}

/// Why the start failed. A damaged file of the cache is repaired by a verb of ours.
fn explain(error: &StartError, model: Option<&str>) -> String {
    match ModelRef::parse(model) {
        Ok(ModelRef::Alias(_) | ModelRef::Repo { .. }) if error.is_damage() => {
            format!("{error} (`sconce pull {}` checks and repairs cached files)", model.unwrap_or(DEFAULT_MODEL))
        }
        _ => error.to_string(),
    }
}
