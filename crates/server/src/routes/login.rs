//! `/login`: a person shows a key, and the browser keeps it as a cookie that no page can read.

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::gate::say_when;
use crate::keys::Caller;
use crate::login::page;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::Anybody;
use crate::principal::Principal;

pub(super) fn routes() -> Table {
    Table::default().get("/login", Anybody, show, Doc::new("users", "The page to log in.").bytes("text/html")).post(
        "/login",
        Anybody,
        submit,
        Doc::new("users", "Keeps a key as a cookie; without one, forgets it.")
            .describe("The form's field is called key. A wrong key is answered with the page again.")
            .urlencoded("Login")
            .status(303, "The key is good; go to the front end.")
            .status(401, "The key opens nothing.")
            .status(429, "Too many wrong keys came from this address."),
    )
}

async fn show(State(app): State<App>, principal: Principal) -> Response {
    let why = match &principal {
        Principal::Keyed(caller) => format!("You are {}. Another key takes this one's place; without one you are logged out.", caller.user),
        Principal::Anonymous | Principal::User(_) if app.gate.is_shut() => "This server asks for a key.".to_owned(),
        Principal::Anonymous | Principal::User(_) => "This server asks for no key.".to_owned(),
    };
    page("/login", &why)
}

async fn submit(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, rest) = request.into_parts();
    let text = body::text(Request::from_parts(parts.clone(), rest), &()).await?;
    let key = form_urlencoded::parse(&text).find(|(name, _)| name == "key").map(|(_, key)| key.trim().to_owned()).unwrap_or_default();
    if key.is_empty() {
        return Ok(moved(&app, &parts, "login", None));
    }
    Ok(match app.gate.try_key(&parts, &key) {
        Ok(caller) => moved(&app, &parts, "./", Some((&key, &caller))),
        Err(error) => {
            let mut shown = page("/login", error.message());
            *shown.status_mut() = error.status();
            if error.status() == StatusCode::TOO_MANY_REQUESTS {
                say_when(&mut shown);
            }
            shown
        }
    })
}

fn moved(app: &App, request: &Parts, to: &'static str, login: Option<(&str, &Caller)>) -> Response {
    let headers = [(LOCATION, to.to_owned()), (CACHE_CONTROL, "no-store".to_owned()), (SET_COOKIE, app.gate.cookie(request, login))];
    (StatusCode::SEE_OTHER, headers).into_response()
}
