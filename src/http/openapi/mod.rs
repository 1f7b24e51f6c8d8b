//! The OpenAPI document of this server, made of what the server itself works by: the route table, the table of request
//! fields, and `components.json` for shapes that stand nowhere else as data (answers, and the insides of some fields).

#[cfg(test)]
mod tests;

use axum::response::Response;
use http::Method;
use serde_json::{Map, Value, json};

use super::app::App;
use super::fields::{Endpoint, schemas};
use super::generate::json_response;
use super::routes::{Access, ROUTES, Route};

/// Schemas by name.
const COMPONENTS: &str = include_str!("components.json");

/// A route's place in the document.
#[derive(Clone, Copy)]
pub(super) struct About {
    summary: &'static str,
    /// The schema of the body.
    takes: Option<&'static str>,
    gives: Content,
}

/// What a successful answer holds.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// JSON of the named schema.
    Json(&'static str),
    /// The same, or server-sent events if the request asks for a stream.
    Events(&'static str),
    /// Plain text.
    Text,
    /// Nothing: the status says it.
    Empty,
}

impl About {
    pub(super) const fn get(summary: &'static str, gives: Content) -> Self {
        Self { summary, takes: None, gives }
    }

    pub(super) const fn post(summary: &'static str, takes: &'static str, gives: Content) -> Self {
        Self { summary, takes: Some(takes), gives }
    }
}

/// `GET /openapi.json`
pub(super) fn document(app: &App) -> Response {
    let prefix = app.config.root_path.trim_end_matches('/');
    json_response(build(if prefix.is_empty() { "/" } else { prefix }).to_string())
}

fn build(server: &str) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let method = if route.method == Method::GET { "get" } else { "post" };
        paths.insert(route.path.to_owned(), json!({method: operation(route)}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "sconce",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's API for open-weight models. In requests null means absent; fields that nobody \
                knows are ignored, or refused with strict-fields.",
        },
        "servers": [{"url": server}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {"Error": {"description": "What is wrong, and where", "content": content("Error")}},
            "schemas": components(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let About { summary, takes, gives } = route.about;
    let mut operation = json!({
        "summary": summary,
        "operationId": format!("{} {}", route.method, route.path),
        "responses": {
            "200": {"description": "Success"},
            "4XX": {"$ref": "#/components/responses/Error"},
            "5XX": {"$ref": "#/components/responses/Error"},
        },
    });
    let mut answer = match gives {
        Content::Json(name) | Content::Events(name) => content(name),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Content::Empty => Value::Null,
    };
    if let Content::Events(_) = gives {
        answer["text/event-stream"] = json!({"schema": {"type": "string"}});
    }
    if !answer.is_null() {
        operation["responses"]["200"]["content"] = answer;
    }
    if let Some(name) = takes {
        operation["requestBody"] = json!({"required": true, "content": content(name)});
    }
    if route.path.contains("{model}") {
        let schema = json!({"type": "string", "minLength": 1});
        operation["parameters"] = json!([{"name": "model", "in": "path", "required": true, "schema": schema}]);
    }
    if route.access == Access::Open {
        operation["security"] = json!([]);
    }
    operation
}

fn content(schema: &str) -> Value {
    json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}})
}

/// The schemas of `components.json`, those of the two requests completed from the table of fields.
fn components() -> Map<String, Value> {
    let mut components: Map<String, Value> = serde_json::from_str(COMPONENTS).unwrap_or_default();
    for (name, endpoint) in [("ChatRequest", Endpoint::Chat), ("CompletionRequest", Endpoint::Completions)] {
        let Some(properties) = components.get_mut(name).and_then(|s| s.get_mut("properties")) else { continue };
        let written = std::mem::replace(properties, Value::Object(schemas(endpoint)));
        // What is written by hand says more than a type.
        for (field, more) in written.as_object().into_iter().flatten() {
            properties[field] = more.clone();
        }
    }
    components
}
