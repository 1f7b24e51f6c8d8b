//! `serve`: the listener first, so that probes are answered while the model loads; then the model; then
//! requests, until a signal drains the server and a second one ends it.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::ServeArgs;
use super::banner::{self, KeyHint, Phases};
use super::{CliError, logging, startup, ui};
use crate::config::{ByteSize, Config, ConfigError, MetricsCompat};
use crate::engine::EngineHandle;
use crate::http::{App, HttpConfig, Shutdown};
use crate::hub::{ModelRef, Progress};
use crate::telemetry::{LoadedModel, Telemetry, TelemetryConfig};

/// Serves until a signal.
pub(super) async fn serve(args: ServeArgs, started: Instant) -> Result<(), CliError> {
    let config = args.resolve()?;
    if args.print_config {
        return ui::out(&config.to_toml());
    }
    logging::init(&config.log);
    let mut phases = Phases::new(started);
    let reference = ModelRef::parse(config.model.as_deref())?;
    let http = http_config(&config, &reference)?;
    let model_name = http.model_name().to_owned();
    let listener = bind(config.server.address).await?;
    let address = listener.local_addr().map_err(|e| CliError::Failed(e.to_string()))?;
    ui::out(&format!("effective configuration\n{}\n", config.to_toml()))?;
    phases.done("configuration");

    let vllm_names = config.server.metrics_compat == MetricsCompat::Vllm;
    let telemetry = Telemetry::new(&TelemetryConfig { model_name: model_name.clone(), vllm_names });
    let app = App::new(http, telemetry.clone());
    let (wanted, mut shutdown) = watch::channel(Shutdown::No);
    watch_signals(wanted)?;
    let server = tokio::spawn(crate::http::serve(listener, app.clone(), shutdown.clone()));

    let load = async {
        let model = startup::find(config.model.as_deref(), &Progress::stderr()).await?;
        phases.done("find the model");
        startup::load(&config, model, Some(telemetry.clone()), &mut phases).await
    };
    let loaded = tokio::select! {
        loaded = load => loaded?,
        // Nothing is open that would have to be finished.
        _ = shutdown.wait_for(|wanted| *wanted >= Shutdown::Drain) => return Ok(()),
    };
    app.ready(loaded.engine.clone(), loaded.text.clone());
    for (phase, time) in phases.times() {
        telemetry.startup_phase(phase, time);
    }
    let shape = (loaded.text.chat_template.is_some(), loaded.engine.info().max_model_len);
    let curl = banner::curl(address, &model_name, shape, &key_hint(&config));
    telemetry.loaded(&LoadedModel {
        backend: loaded.backend,
        quant: loaded.quant,
        device: &loaded.device,
        weight_bytes: loaded.weight_bytes,
        kv_bytes: loaded.kv_bytes,
    });
    let bytes = |bytes: usize| ByteSize(bytes as u64).approx();
    let (device, weights, kv) = (&loaded.device, bytes(loaded.weight_bytes), bytes(loaded.kv_bytes));
    let computes = format!("{device}: {weights} of weights, {kv} reserved for the KV cache");
    let phases = phases.table();
    ui::out(&format!("start-up\n{phases}\n{computes}\n{model_name} is served at http://{address}\n\n{curl}\n"))?;

    tokio::select! {
        served = server => served.map_err(|e| CliError::Failed(format!("the HTTP server failed: {e}")))?,
        () = engine_end(&loaded.engine) => {
            return Err(CliError::Failed("the engine has ended, the log says why; start the server again".to_owned()));
        }
    }
    loaded.engine.shutdown();
    if *shutdown.borrow() == Shutdown::Now {
        // Two signals: the operator wanted out, open requests or not.
        return Err(CliError::Interrupted);
    }
    tokio::task::spawn_blocking(move || loaded.join()).await.map_err(|e| CliError::Failed(e.to_string()))
}

/// How long a server without an engine stays: open requests hear what happened, probes see red.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Returns some time after the engine has ended by itself: nothing can be served any more.
async fn engine_end(engine: &EngineHandle) {
    while engine.is_alive() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tracing::error!("the engine has ended; this process follows in {} s", LAST_WORDS.as_secs());
    tokio::time::sleep(LAST_WORDS).await;
}

/// What the HTTP layer needs of the configuration.
fn http_config(config: &Config, reference: &ModelRef) -> Result<HttpConfig, CliError> {
    let server = &config.server;
    let served_names = match server.served_model_names.is_empty() {
        true => vec![reference.model_name()?],
        false => server.served_model_names.clone(),
    };
    Ok(HttpConfig {
        served_names,
        model_root: config.model.clone().unwrap_or_else(|| crate::config::DEFAULT_MODEL.to_owned()),
        api_keys: server.api_keys.clone(),
        root_path: server.root_path.clone(),
        strict_fields: server.strict_fields,
        max_n: server.max_n,
        max_body_bytes: server.max_body_bytes,
        request_timeout: server.request_timeout,
        drain_delay: server.drain_delay,
        drain_timeout: server.drain_timeout,
        ..HttpConfig::default()
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).await.map_err(|e| {
        let (key, reason) = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                ("port", format!("{address} is in use; choose another port, or 0 for a free one"))
            }
            std::io::ErrorKind::PermissionDenied => {
                ("port", format!("not allowed to listen on {address}; choose a port from 1024 on"))
            }
            std::io::ErrorKind::AddrNotAvailable => {
                ("host", format!("this machine has no address {}; 127.0.0.1 is always there", address.ip()))
            }
            _ => ("host", format!("can't listen on {address}: {e}")),
        };
        ConfigError::Invalid { key, reason }.into()
    })
}

/// SIGTERM or Ctrl-C drains, a second one ends at once.
fn watch_signals(wanted: watch::Sender<Shutdown>) -> Result<(), CliError> {
    let listen = |kind| signal(kind).map_err(|e| CliError::Failed(format!("can't listen for signals: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for level in [Shutdown::Drain, Shutdown::Now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            wanted.send_replace(level);
        }
        // Keeps the channel open: its end would mean something else.
        std::future::pending::<()>().await;
    });
    Ok(())
}

/// Keys are only shown to a terminal, and those of a file not at all.
fn key_hint(config: &Config) -> KeyHint {
    let file = config.settings.iter().find(|setting| setting.key == "api-key-file" && !setting.value.is_empty());
    let path = file.and_then(|setting| serde_json::from_str::<String>(&setting.value).ok());
    match (config.server.api_keys.first(), path) {
        (None, _) => KeyHint::None,
        (Some(_), Some(path)) => KeyHint::File(path),
        (Some(key), None) if std::io::stdout().is_terminal() => KeyHint::Literal(key.clone()),
        (Some(_), None) => KeyHint::Variable,
    }
}
