//! `/ws`: one task per client that sends what its mailbox holds and reads feature flags.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::events::{self, Told};
use crate::frames::{self, Status};
use crate::hub::{Closed, Hearer, Mailbox};
use crate::keys::Caller;
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::Read;
use crate::principal::Principal;
use crate::query::Query;

/// Messages from clients are small (feature flags); a larger one ends the connection.
const MAX_CLIENT_MESSAGE_BYTES: usize = 64 << 10;
/// What is read from a client at once. Thousands of clients that say next to nothing must not each hold the default of 128 KiB.
const READ_BUFFER_BYTES: usize = 4 << 10;

pub(super) fn routes() -> Table {
    Table::default().get(
        "/ws",
        Read,
        connect,
        Doc::new("events", "The websocket that events are sent to.")
            .query("clientId", "string", "A reconnect takes the older connection's place; one is made if it is missing.")
            .query("preview", "string", "raw: previews as pixels.")
            .describe("Events are JSON, {\"type\": …, \"data\": …}, and told by x-events. Pictures and texts are binary, and told by x-frames: a number, and what stands behind it; all numbers are u32, big-endian.")
            .extension("x-events", events::events())
            .extension("x-frames", events::frames())
            .status(101, "The websocket is open."),
    )
}

async fn connect(
    State(app): State<App>,
    shape: ApiShape,
    principal: Principal,
    Query(mut query): Query,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    // Others must find a connection too.
    if app.hub.len() >= app.options.max_connections - app.options.max_connections / 4 {
        return Err(too_many());
    }
    let client_id = query.remove("clientId").filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let status = app.status(principal.only().as_deref()).await?;
    let first = frames::text(Told::Status, &Status { status: &status, sid: Some(&client_id) });
    let mailbox = app.hub.connect(&client_id, hearer(&principal), Some(first)).ok_or_else(too_many)?;
    mailbox.set_abilities(|a| {
        a.raw_previews = query.get("preview").is_some_and(|format| format == "raw");
        a.documented = shape == ApiShape::Documented;
    });
    let failed = {
        let (app, id, mailbox) = (app.clone(), client_id.clone(), Arc::clone(&mailbox));
        move |_| app.hub.disconnect(&id, &mailbox)
    };
    let upgrade = upgrade
        .max_message_size(MAX_CLIENT_MESSAGE_BYTES)
        .max_frame_size(MAX_CLIENT_MESSAGE_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .on_failed_upgrade(failed);
    let caller = principal.caller().cloned();
    Ok(upgrade.on_upgrade(move |socket| serve(app, socket, client_id, mailbox, caller)))
}

fn too_many() -> ApiError {
    let what = "too many websocket clients are connected: close some, or raise --max-connections";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_clients", what)
}

/// Whose events it is told. Without keys the header that names users does not come with websockets: all are told to all then.
fn hearer(principal: &Principal) -> Hearer {
    Hearer { owner: principal.caller().map(|caller| Arc::clone(&caller.user)), all: principal.only().is_none() }
}

async fn serve(app: App, socket: WebSocket, client_id: String, mailbox: Arc<Mailbox>, caller: Option<Arc<Caller>>) {
    let (mut out, mut incoming) = socket.split();
    let send = async {
        let why = loop {
            match mailbox.next().await {
                Ok(message) => {
                    if out.send(message).await.is_err() {
                        return;
                    }
                }
                Err(why) => break why,
            }
        };
        // The client may be gone already.
        drop(out.send(Message::Close(Some(why.frame()))).await);
    };
    let receive = async {
        let mut first = true;
        while let Some(Ok(message)) = incoming.next().await {
            if let Message::Text(text) = message {
                if first {
                    negotiate(&app, &mailbox, text.as_str());
                }
                first = false;
            }
        }
    };
    let shut_out = async {
        app.options.keys.shut_out(caller.as_deref()).await;
        mailbox.close(Closed::ShutOut);
        // It is told why, if it takes it.
        std::future::pending::<()>().await;
    };
    tokio::select! { () = send => {}, () = receive => {}, () = shut_out => {}, () = mailbox.given_up() => {} }
    app.hub.disconnect(&client_id, &mailbox);
}

/// The first message may announce what the client understands; the answer is what the server does.
fn negotiate(app: &App, mailbox: &Arc<Mailbox>, text: &str) {
    let Ok(message) = comfyd_wire::json::read(text.as_bytes()) else { return };
    if message.get("type").and_then(Value::as_str) != Some("feature_flags") {
        return;
    }
    let flag = |name: &str| message.pointer(&format!("/data/{name}")).and_then(Value::as_bool).unwrap_or(false);
    mailbox.set_abilities(|a| {
        a.preview_metadata = flag("supports_preview_metadata");
        a.raw_previews |= flag("supports_raw_previews");
    });
    app.hub.send(mailbox, Told::FeatureFlags, &app.options.features());
}
