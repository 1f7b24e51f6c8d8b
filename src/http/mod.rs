//! The HTTP API: OpenAI's endpoints, probes and metrics.
//!
//! # Layout
//! - `server`: connections and shutdown; `io`: time limits of a socket; `routes`: the route table
//!   and what surrounds every request; `app`, `lifecycle`, `config`: what handlers share
//! - `chat`, `completions`: one folder an endpoint: wire `types`, `validate`, `convert`, `format`
//! - `generate`: what both do alike, from body to pieces of the answer; `sse`: those as a stream
//! - `fields`: the one table of request fields; `sampling`, `json`, `body`: reading them;
//!   `structured`: what an answer's text must be
//! - `models`, `identity`, `tokenize`, `render`, `probes`: the small endpoints; `invocations`: SageMaker's
//!   door to the two; `openapi`: the document of all of them
//! - `auth`, `error`, `text`, `usage`: parts
//!
//! A generation request: `routes` admits it, `body` reads it, `fields` screens it, the endpoint's
//! `validate` and `convert` make a job of it, `generate` submits that and hears its events, and the
//! endpoint's `format` writes the answer. Dropping any of it aborts the rest.

mod app;
mod auth;
mod body;
mod chat;
mod completions;
mod config;
mod error;
mod fields;
mod generate;
mod identity;
mod invocations;
mod io;
mod json;
mod lifecycle;
mod models;
mod openapi;
mod probes;
mod render;
mod routes;
mod sampling;
mod server;
mod sse;
mod structured;
mod text;
mod tokenize;
mod usage;

pub use app::{App, Serving};
pub use config::HttpConfig;
pub use error::{ApiError, Unavailable};
pub use lifecycle::{Lifecycle, OpenRequest, State};
pub use server::{Shutdown, serve};
pub use text::{Decoder, TextService};
