//! The whole server under load: a real model's shape from a checkpoint on disk, through HTTP, with our own client.

use std::path::Path;
use std::time::{Duration, Instant};

use sconce_kernels::gpu::device::GpuDevice;
use serde_json::{Map, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::engine::{NO_TEXT, config, write_tokenizer};
use super::report::{Figure, Found, Reason, Report};
use super::shapes::{Point, Shape, spec, weights_read};
use super::timing::{Floors, RANDOM_BYTES, bf16_block};
use super::{Open, checkpoint};
use crate::bench::{Load, Prompt, Target, run};
use crate::config::EngineConfig;
use crate::http::{App, HttpConfig, Shutdown, serve};
use crate::runtime::{Runtime, start_on};
use crate::telemetry::{Telemetry, TelemetryConfig};

/// The name that the model is served by.
const MODEL: &str = "check";

/// What the server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Streams at once, one load each.
    pub streams: [usize; 3],
    /// Requests a stream.
    pub requests: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of an answer.
    pub answer: usize,
    /// Bounds of a step and of a sequence, as for `serve`.
    pub max_batch_tokens: usize,
}

/// Starts the server and puts every load on it.
pub fn serving<D: GpuDevice + 'static>(
    report: &mut Report<'_>,
    folder: &Path,
    (shape, traffic): (&Shape, &Traffic),
    floors: Option<&Floors>,
    open: Open<'_, D>,
) {
    let name = shape.name;
    let mut engine = None;
    report.line(&format!("{name}: from files to ready"), || {
        Ok(engine.insert(start(folder, shape, traffic, open)?).ready())
    });
    let Some(engine) = engine else { return };
    let streams = || traffic.streams.into_iter();
    let line =
        |streams: usize| format!("{name}: HTTP, {streams} streams, {} in, {} out", traffic.prompt, traffic.answer);
    let server = match Server::new(&engine) {
        Ok(server) => server,
        Err(reason) => {
            streams().for_each(|streams| {
                report.line(&line(streams), || Err(reason.clone()));
            });
            return engine.stop();
        }
    };
    let mut seed = 1;
    for streams in streams() {
        report.line(&line(streams), || {
            // What comes first captures graphs.
            server.load(streams, 1, traffic, &mut seed)?;
            let floor = floors.map(|floors| engine.floor(streams, traffic, floors));
            server.load(streams, traffic.requests, traffic, &mut seed).map(|summary| {
                let figure = Figure::rate(summary.generated_per_second, floor, ("tokens/s", 1.0));
                figure.with(json!(summary))
            })
        });
    }
    server.stop();
    engine.stop();
}

/// An engine on files.
struct Served {
    runtime: Runtime,
    seconds: f64,
}

fn start<D: GpuDevice + 'static>(
    folder: &Path,
    shape: &Shape,
    traffic: &Traffic,
    open: Open<'_, D>,
) -> Result<Served, Reason> {
    let spec = spec(folder, shape)?;
    let folder = folder.join("served");
    let written = checkpoint::write_llama(&folder, &shape.config, &spec, &bf16_block(RANDOM_BYTES));
    written.and_then(|()| write_tokenizer(&folder, spec.vocab_size)).map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull => Reason::LeftOut(format!("no room in {}", folder.display())),
        _ => Reason::Failed(format!("{}: {error}", folder.display())),
    })?;
    let most = traffic.streams.into_iter().max().unwrap_or(1);
    let config = EngineConfig {
        max_model_len: Some(2 * (traffic.prompt + traffic.answer)),
        max_num_seqs: most,
        max_batch_tokens: traffic.max_batch_tokens,
        max_queued_tokens: most * traffic.prompt,
        kv_cache_fixed: None,
        ..config()
    };
    let begin = Instant::now();
    let runtime = start_on(open()?, &folder, &config, &NO_TEXT, None).map_err(|error| error.to_string());
    let seconds = begin.elapsed().as_secs_f64();
    // Loaded or not, nobody reads them again.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(Served { runtime: runtime?, seconds })
}

impl Served {
    /// How long it took, by phases.
    fn ready(&self) -> Found {
        let phases = self.runtime.phases.iter().map(|phase| (phase.name.to_owned(), json!(phase.time.as_secs_f64())));
        let (phases, bytes) = (phases.collect::<Map<_, _>>(), self.runtime.weight_bytes);
        Figure::plain(self.seconds, "s").with(json!({"phases_s": phases, "weight_bytes": bytes}))
    }

    /// Tokens a second when prompts and steps take no longer than their floors: all prompts of a wave, then its steps.
    fn floor(&self, streams: usize, traffic: &Traffic, floors: &Floors) -> f64 {
        let spec = &self.runtime.spec;
        let middle = Point { batch: streams, context: traffic.prompt + traffic.answer / 2, tokens: 1 };
        let prompt = 2.0 * (weights_read(spec) * traffic.prompt) as f64 / floors.flops;
        let wave = middle.floor(spec, floors) * traffic.answer as f64 + prompt * streams as f64;
        (streams * traffic.answer) as f64 / wave
    }

    fn stop(self) {
        self.runtime.engine.shutdown();
        self.runtime.join();
    }
}

/// The HTTP server on a port of its own, and where its client runs.
struct Server {
    tokio: tokio::runtime::Runtime,
    target: Target,
    shutdown: watch::Sender<Shutdown>,
    vocab: usize,
}

impl Server {
    fn new(engine: &Served) -> Result<Self, Reason> {
        let failed = |error: std::io::Error| Reason::Failed(error.to_string());
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let listener = tokio.block_on(TcpListener::bind("127.0.0.1:0")).map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        let telemetry = Telemetry::new(&TelemetryConfig { model_name: MODEL.to_owned(), vllm_names: false });
        let app = App::new(HttpConfig { served_names: vec![MODEL.to_owned()], ..HttpConfig::default() }, telemetry);
        app.ready(engine.runtime.engine.clone(), engine.runtime.text.clone());
        let (shutdown, wanted) = watch::channel(Shutdown::No);
        tokio.spawn(serve(listener, app, wanted));
        let target = Target { url, model: MODEL.to_owned(), api_key: None };
        Ok(Self { tokio, target, shutdown, vocab: engine.runtime.spec.vocab_size })
    }

    /// Puts a load of new prompts on it.
    fn load(
        &self,
        streams: usize,
        requests: usize,
        traffic: &Traffic,
        seed: &mut u64,
    ) -> Result<crate::bench::Summary, Reason> {
        let prompts = (0..streams * requests).map(|_| {
            let ids = (0..traffic.prompt).map(|_| {
                *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((*seed >> 33) as usize % self.vocab) as u32
            });
            Prompt::Ids(ids.collect())
        });
        let load = Load { streams, prompts: prompts.collect(), max_tokens: traffic.answer };
        let summary = self.tokio.block_on(run(&self.target, &load)).map_err(|error| error.to_string())?;
        let wanted = (streams * requests, streams * requests * traffic.answer);
        if (summary.answered, summary.generated_tokens) != wanted {
            return Err(Reason::Failed(format!("not {} answers of {} tokens in all: {summary:?}", wanted.0, wanted.1)));
        }
        Ok(summary)
    }

    fn stop(self) {
        self.shutdown.send_replace(Shutdown::Now);
        // The client's connections end with it.
        self.tokio.shutdown_timeout(Duration::from_secs(1));
    }
}
