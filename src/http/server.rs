//! Connections: accepting them, their limits, and the order of events when the server stops.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app::App;
use super::io::{Answering, IoLimits, LimitedIo, Progress, client_gone};
use super::lifecycle::State;
use super::routes::serve_request;
use crate::telemetry::Telemetry;

/// What the owner of the process wants of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Go on.
    #[default]
    No,
    /// Stop in order: finish what is open.
    Drain,
    /// Stop at once.
    Now,
}

/// How long connections get to take the last bytes of what was cut.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Serves `listener` until `shutdown` says otherwise, then stops in order: readiness fails at once;
/// for the drain delay requests are still taken; then new ones are refused while open ones may go on
/// for the drain timeout; what is left then is told so. Connections are accepted throughout.
///
/// Returns when nothing is open, or at once on [`Shutdown::Now`]. A dropped sender means
/// [`Shutdown::Drain`].
pub async fn serve(listener: TcpListener, app: Arc<App>, shutdown: watch::Receiver<Shutdown>) {
    let connections = Connections {
        app: app.clone(),
        tasks: TaskTracker::new(),
        close: CancellationToken::new(),
        cut: CancellationToken::new(),
        places: Arc::new(Semaphore::new(app.config.max_connections.max(1))),
    };
    let upkeep = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            app.telemetry.run_upkeep();
        }
    };
    let (mut wanted, mut urgent) = (shutdown.clone(), shutdown);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = upkeep => {}
        () = async {
            reached(&mut wanted, Shutdown::Drain).await;
            connections.drain().await;
        } => {}
        () = async {
            // Only an explicit wish is urgent: a dropped sender is not.
            if !reached(&mut urgent, Shutdown::Now).await {
                std::future::pending::<()>().await;
            }
        } => app.lifecycle.advance(State::Dead),
    }
}

/// Waits until `level` is wanted; false when nobody is left to want it.
async fn reached(shutdown: &mut watch::Receiver<Shutdown>, level: Shutdown) -> bool {
    shutdown.wait_for(|wanted| *wanted >= level).await.is_ok()
}

struct Connections {
    app: Arc<App>,
    tasks: TaskTracker,
    /// Cancelled when connections must close after the answer they are at.
    close: CancellationToken,
    /// Cancelled when they must close now.
    cut: CancellationToken,
    places: Arc<Semaphore>,
}

impl Connections {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((socket, _)) => {
                    let counted = OpenConnection::new(self.app.telemetry.clone());
                    let connection = connection(socket, self.app.clone(), self.close.clone());
                    let cut = self.cut.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = connection => {}
                            () = cut.cancelled() => {}
                        }
                        drop((counted, place));
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for some to be freed.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn drain(&self) {
        let (app, lifecycle) = (&self.app, &self.app.lifecycle);
        tracing::info!("draining: readiness is off, open requests go on");
        app.telemetry.draining();
        lifecycle.advance(State::Draining);
        tokio::time::sleep(app.config.drain_delay).await;
        lifecycle.advance(State::Refusing);
        if tokio::time::timeout(app.config.drain_timeout, lifecycle.idle()).await.is_err() {
            tracing::warn!("the drain time-out is over: open requests are cut");
        }
        lifecycle.advance(State::Dead);
        self.close.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_BYTES, self.tasks.wait()).await.is_err() {
            tracing::warn!("some clients did not take the end of their answers");
            // Their requests end as any other: counted and logged.
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

/// Counts a connection while it is open.
struct OpenConnection(Arc<Telemetry>);

impl OpenConnection {
    fn new(telemetry: Arc<Telemetry>) -> Self {
        telemetry.connection_opened();
        Self(telemetry)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// Serves one connection to its end.
async fn connection(socket: TcpStream, app: Arc<App>, close: CancellationToken) {
    // Tokens are small and each must go out at once. A socket that can't is closed already.
    let _ = socket.set_nodelay(true);
    let config = &app.config;
    let progress = Arc::<Progress>::default();
    let limits = IoLimits { head: config.header_timeout, idle: config.idle_timeout, write: config.write_timeout };
    let socket = Arc::new(socket);
    let io = TokioIo::new(LimitedIo::new(socket.clone(), limits, progress.clone()));
    let mut builder = hyper::server::conn::http1::Builder::new();
    // Heads over our limits are refused as any request is (`routes`), with an error in the body. The library's own
    // refusals have none; they are for heads far beyond.
    let most_bytes = config.max_header_bytes.saturating_mul(4);
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(config.max_header_fields.saturating_mul(4))
        .max_header_size(most_bytes)
        .max_buf_size(most_bytes.max(64 << 10));
    let service = service_fn(|request| answer(app.clone(), request, progress.clone()));
    let mut served = pin!(builder.serve_connection(io, service));
    let result = tokio::select! {
        result = served.as_mut() => result,
        // Dropping the connection drops the request.
        () = client_gone(&socket, &progress) => return,
        () = close.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                result = served => result,
                () = client_gone(&socket, &progress) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Marks the connection as answering until the body has been given away.
async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    progress: Arc<Progress>,
) -> Result<Response, std::convert::Infallible> {
    let answering = progress.answering();
    let response = serve_request(app, request).await?;
    Ok(response.map(|body| Body::new(Guarded { body, _answering: answering })))
}

/// A body that knows when it has been given away.
struct Guarded {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
