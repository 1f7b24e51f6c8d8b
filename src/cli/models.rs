//! `pull` and `list`: the models on this machine.

use super::args::PullArgs;
use super::{CliError, ui};
use crate::config::ByteSize;
use crate::hub::{Hub, HubSettings, ModelRef, Progress, aliases};

/// Downloads a model, checks what of it is here already, and prints where it lies.
pub(super) async fn pull(args: PullArgs) -> Result<(), CliError> {
    let reference = ModelRef::parse(args.model.as_deref())?;
    let hub = Hub::new(HubSettings::from_env(), Progress::stderr());
    let model = tokio::select! {
        model = hub.pull(&reference) => model?,
        // What has arrived stays, for the next attempt to go on from.
        _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
    };
    ui::out(&format!("{}\n", model.path.display()))
}

/// Lists cached models and aliases.
pub(super) fn list() -> Result<(), CliError> {
    let cached = Hub::new(HubSettings::from_env(), Progress::hidden()).cached();
    let rows: Vec<(String, String)> = cached
        .iter()
        .map(|model| {
            (model.reference.clone(), format!("{:>10}  {}", ByteSize(model.bytes).approx(), model.path.display()))
        })
        .collect();
    let here = if rows.is_empty() {
        "  none yet; `sconce pull` downloads the default model\n".to_owned()
    } else {
        ui::table(&rows)
    };
    let known: Vec<(&str, &str)> = aliases().iter().map(|alias| (alias.name, alias.model_name)).collect();
    ui::out(&format!("on this machine:\n{here}\naliases:\n{}", ui::table(&known)))
}
