//! The routes and what the OpenAPI document says of them, in one list: a route without a description does not compile, and a description
//! without a route cannot be written. Knows nothing of what the routes do.

pub(crate) mod named;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{Ref, RefOr, Schema};

use crate::app::App;
use crate::error::{CodedError, DocumentedError, WireError};
use crate::permission::Permission;

/// The shapes that are no Rust types: bodies, which are read more leniently than they are documented, and what other crates render.
const SCHEMAS: &str = include_str!("schemas.json");
/// What errors are; the hand-written schema of all shapes refers to them.
const ERRORS: [fn(&mut Schemas); 3] = [add_schemas::<WireError>, add_schemas::<DocumentedError>, add_schemas::<CodedError>];
/// With what paths begin that are not served without it too.
const PREFIX: &str = "/api/";
/// Media types.
const JSON: &str = "application/json";
const ANY: &str = "application/octet-stream";

/// A list of routes with their descriptions.
#[derive(Default)]
pub(crate) struct Table {
    router: Router<App>,
    pub(crate) operations: Vec<Operation>,
}

pub(crate) struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub permission: Permission,
    pub doc: Doc,
}

/// What the document says of one method of one path. Parameters in the path are found there.
pub(crate) struct Doc {
    tag: &'static str,
    pub summary: &'static str,
    description: Option<&'static str>,
    query: Vec<Value>,
    pub body: Option<Value>,
    pub answers: Map<String, Value>,
    /// What OpenAPI has no words for, by names that begin with `x-`.
    extensions: Map<String, Value>,
    /// What add the schemas of the types that are referred to.
    schemas: Vec<fn(&mut Schemas)>,
}

/// Schemas by their names.
type Schemas = Vec<(String, RefOr<Schema>)>;

impl Table {
    pub(crate) fn get<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::GET, handler, Operation { method: "get", path, permission, doc })
    }

    pub(crate) fn post<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::POST, handler, Operation { method: "post", path, permission, doc })
    }

    pub(crate) fn put<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::PUT, handler, Operation { method: "put", path, permission, doc })
    }

    pub(crate) fn head<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::HEAD, handler, Operation { method: "head", path, permission, doc })
    }

    pub(crate) fn patch<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::PATCH, handler, Operation { method: "patch", path, permission, doc })
    }

    pub(crate) fn delete<T: 'static>(self, path: &'static str, permission: Permission, handler: impl Handler<T, App>, doc: Doc) -> Self {
        self.add(MethodFilter::DELETE, handler, Operation { method: "delete", path, permission, doc })
    }

    fn add<T: 'static>(mut self, method: MethodFilter, handler: impl Handler<T, App>, operation: Operation) -> Self {
        let (path, route) = (operation.path, on(method, handler));
        // Some are below the prefix only: without it their paths are those of the front end's files.
        self.router = match path.starts_with(PREFIX) {
            true => self.router.route(path, route),
            false => self.router.route(path, route.clone()).route(&format!("/api{path}"), route),
        };
        self.operations.push(operation);
        self
    }

    /// Takes another list's routes in.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// Every route, with and without the prefix `/api`.
    pub(crate) fn into_router(self) -> Router<App> {
        self.router
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self, api_version: &str) -> Value {
        let mut paths = Map::new();
        for Operation { method, path, permission, doc } in &self.operations {
            // A rest of the path (`{*name}`) is a parameter as any other.
            let path = path.replace("{*", "{");
            let mut operation = json!({"tags": [doc.tag], "summary": doc.summary, "x-permission": permission});
            if path.starts_with(PREFIX) {
                operation["servers"] = json!([{"url": "/"}]);
            }
            // The document's own requirement is any of the keys.
            if *permission == Permission::Anybody {
                operation["security"] = json!([]);
            }
            if let Some(description) = doc.description {
                operation["description"] = description.into();
            }
            // Errors of every call have two shapes.
            let shape = json!({"$ref": "#/components/parameters/shape"});
            operation["parameters"] = path_parameters(&path).chain(doc.query.iter().cloned()).chain([shape]).collect();
            if let Some(body) = &doc.body {
                operation["requestBody"] = body.clone();
            }
            operation["responses"] = doc.answers.clone().into();
            let error = json!({"description": "What went wrong.", "content": {JSON: {"schema": named("Error")}}});
            operation["responses"]["default"] = error;
            for (name, value) in &doc.extensions {
                operation[name] = value.clone();
            }
            if let Some(methods) = paths.entry(path).or_insert_with(|| json!({})).as_object_mut() {
                methods.insert((*method).to_owned(), operation);
            }
        }
        paths.sort_keys();
        let mut schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap_or_default();
        let mut types = Schemas::new();
        for add in self.operations.iter().flat_map(|operation| &operation.doc.schemas).chain(&ERRORS) {
            add(&mut types);
        }
        schemas.extend(types.into_iter().map(|(name, schema)| (name, json!(schema))));
        schemas.sort_keys();
        let shape = json!({
            "name": "shape",
            "in": "query",
            "schema": {"type": "string", "enum": ["wire", "documented"]},
            "description": "ComfyUI's shape, or the API document's where the two differ; without it, what the server was started with.",
        });
        let keys = json!({
            "bearer": {"type": "http", "scheme": "bearer", "description": "A key that `comfyd key add` made."},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "comfyd_key", "description": "Set by /login; with the port behind _."},
            "query": {"type": "apiKey", "in": "query", "name": "token", "description": "For /ws, and for the first visit to a page."},
        });
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "comfyd",
                "version": api_version,
                "description": "ComfyUI's prompt server API. Every path is served below /api too; those that begin with it, only so. Bodies are read as JSON whatever their \
                    content type says. Where the server asks for keys, x-permission is the scope that a call needs: read, run or admin, \
                    where each has those before it. Without a key the answer is 401, with one that does not allow it 403. Where an answer differs from the API document's, ?shape=documented gives the document's form.",
            },
            "servers": [{"url": "/"}, {"url": "/api"}],
            "security": [{}, {"bearer": []}, {"header": []}, {"cookie": []}, {"query": []}],
            "paths": paths,
            "components": {"parameters": {"shape": shape}, "schemas": schemas, "securitySchemes": keys},
        })
    }
}

impl Doc {
    pub(crate) fn new(tag: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            summary,
            description: None,
            query: Vec::new(),
            body: None,
            answers: Map::new(),
            extensions: Map::new(),
            schemas: Vec::new(),
        }
    }

    /// A parameter of the query: a JSON type and what it means.
    pub(crate) fn query(mut self, name: &str, kind: &str, description: &str) -> Self {
        self.query.push(json!({"name": name, "in": "query", "schema": {"type": kind}, "description": description}));
        self
    }

    /// Answers 200 with JSON of the first type, or of the second one in the API document's shape.
    pub(crate) fn shapes<W: ToSchema, D: ToSchema>(mut self) -> Self {
        let (wire, documented) = (self.reference::<W>(), self.reference::<D>());
        self.either(wire, documented)
    }

    /// The same with the schemas of those names.
    pub(crate) fn named_shapes(self, wire: &str, documented: &str) -> Self {
        self.either(named(wire), named(documented))
    }

    fn either(self, wire: Value, documented: Value) -> Self {
        let shapes = json!([wire, documented]);
        let content = json!({JSON: {"schema": {"anyOf": shapes}}});
        self.answer(200, "The answer in ComfyUI's shape, or in the API document's.", Some(content))
    }

    /// More than the summary says.
    pub(crate) fn describe(mut self, description: &'static str) -> Self {
        self.description = Some(description);
        self
    }

    /// What OpenAPI has no words for, by a name that begins with `x-`.
    pub(crate) fn extension(mut self, name: &str, value: Value) -> Self {
        self.extensions.insert(name.to_owned(), value);
        self
    }

    /// A JSON body with the schema of that name.
    pub(crate) fn body(self, schema: &str) -> Self {
        self.content(JSON, named(schema))
    }

    /// An URL-encoded body with the schema of that name.
    pub(crate) fn urlencoded(self, schema: &str) -> Self {
        self.content("application/x-www-form-urlencoded", named(schema))
    }

    /// A body of any bytes.
    pub(crate) fn bytes_body(self) -> Self {
        self.content(ANY, json!({}))
    }

    /// A form with the schema of that name.
    pub(crate) fn form(self, schema: &str) -> Self {
        self.content("multipart/form-data", named(schema))
    }

    fn content(mut self, mime: &str, schema: Value) -> Self {
        self.body = Some(json!({"required": true, "content": {mime: {"schema": schema}}}));
        self
    }

    /// A JSON body of a type.
    pub(crate) fn body_of<T: ToSchema>(mut self) -> Self {
        let schema = self.reference::<T>();
        self.content(JSON, schema)
    }

    /// Answers 200 with JSON of a type.
    pub(crate) fn json<T: ToSchema>(mut self) -> Self {
        let content = json!({JSON: {"schema": self.reference::<T>()}});
        self.answer(200, "The answer.", Some(content))
    }

    /// Refers to the schema of a type.
    fn reference<T: ToSchema>(&mut self) -> Value {
        self.schemas.push(add_schemas::<T>);
        named(&T::name())
    }

    /// Answers 200 without a body.
    pub(crate) fn done(self) -> Self {
        self.answer(200, "Done.", None)
    }

    /// Answers 200 with bytes of a media type.
    pub(crate) fn bytes(self, mime: &str) -> Self {
        self.answer(200, "The content.", Some(json!({mime: {}})))
    }

    /// Answers with JSON of a type, and a status that is not 200.
    pub(crate) fn json_status<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        let content = json!({JSON: {"schema": self.reference::<T>()}});
        self.answer(status, description, Some(content))
    }

    /// A further answer without a JSON body.
    pub(crate) fn status(self, status: u16, description: &str) -> Self {
        self.answer(status, description, None)
    }

    fn answer(mut self, status: u16, description: &str, content: Option<Value>) -> Self {
        let mut answer = json!({ "description": description });
        if let Some(content) = content {
            answer["content"] = content;
        }
        self.answers.insert(status.to_string(), answer);
        self
    }
}

/// Refers to a schema by its name.
fn named(schema: &str) -> Value {
    json!(Ref::from_schema_name(schema))
}

/// Adds the schema of a type, and those that it refers to.
fn add_schemas<T: ToSchema>(schemas: &mut Schemas) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let schema = json!({"type": "string"});
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    })
}
