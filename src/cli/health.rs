//! `health`: asks a running server whether it is well; for container health checks, where no curl is.

use std::time::Duration;

use super::args::HealthArgs;
use super::{CliError, ui};

/// How long a server that is well takes at most.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Prints the server's answer; an error (exit code 1) when it isn't well or isn't there.
pub(super) async fn health(args: HealthArgs) -> Result<(), CliError> {
    let url = format!("{}/health", args.url.trim_end_matches('/'));
    let failed = |reason: String| CliError::Failed(format!("{url}: {reason}"));
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().map_err(|e| failed(e.to_string()))?;
    let answer = client.get(&url).send().await.map_err(|e| failed(e.without_url().to_string()))?;
    match answer.status() {
        status if status.is_success() => ui::out("ok\n"),
        status => Err(failed(status.to_string())),
    }
}
