//! The users and their folders, and what each has set. Whoever asks is a name here; where there is one user only, all have its folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::StatusCode;
use comfyd_folders::Folders;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::keys::Keys;
use crate::services::paths::inside;
use crate::services::stored::stored_object;

/// Folders in the user folder whose names begin so are the system's, which no client may name.
const SYSTEM_PREFIX: &str = "__";
/// Users that may be made.
const MAX_USERS: usize = 10_000;
/// The user where there is only one, and who asks without a name.
pub(crate) const DEFAULT_USER: &str = "default";

/// Bytes of all settings of a user: they are read and written as a whole.
const MOST_SETTINGS: usize = 16 << 20;
/// The file of a user's settings.
const SETTINGS: &str = "comfy.settings.json";

/// The users of one server.
pub(crate) struct Users {
    root: PathBuf,
    folders: Arc<Folders>,
    several: bool,
    /// Where keys are asked for, each is somebody's, whose name is his folder's.
    keys: Arc<Keys>,
    /// Held while a file is read, changed and written, so that two changes at once both survive.
    changing: Mutex<()>,
}

impl Users {
    /// The users whose folders are in the user folder; several of them, or one, unless these keys tell whose they are.
    pub(crate) fn new(folders: Arc<Folders>, several: bool, keys: Arc<Keys>) -> Self {
        Self { root: folders.roots().user.clone(), folders, several, keys, changing: Mutex::default() }
    }

    /// The folder of a user. 401 if there is no such user.
    pub(crate) fn folder(&self, user: &str) -> Result<PathBuf, ApiError> {
        if self.keys.required() {
            return inside(&self.root, user);
        }
        if !self.several {
            return Ok(self.root.join(DEFAULT_USER));
        }
        if user.starts_with(SYSTEM_PREFIX) || !self.known()?.contains_key(user) {
            let what = "there is no such user: send the header comfy-user with one of /users";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unknown_user", what).details(user));
        }
        inside(&self.root, user)
    }

    /// The users' names by their ids; `None` where there is one only.
    pub(crate) fn names(&self) -> Result<Option<Map<String, Value>>, ApiError> {
        (self.several && !self.keys.required()).then(|| self.known()).transpose()
    }

    /// Whether the one user has a folder.
    pub(crate) fn has_default(&self) -> Result<bool, ApiError> {
        let folder = self.root.join(DEFAULT_USER);
        Ok(self.folders.listed_shared(&folder)?.map_or_else(|| folder.exists(), |files| !files.is_empty()))
    }

    fn file(&self) -> PathBuf {
        self.root.join("users.json")
    }

    fn known(&self) -> Result<Map<String, Value>, ApiError> {
        Ok(self.object(&self.file())?.unwrap_or_default())
    }

    /// The object in a file, as it was written last; `None` where there is none.
    fn object(&self, path: &Path) -> Result<Option<Map<String, Value>>, ApiError> {
        if self.folders.here(path)? { stored_object(&self.root, path) } else { Ok(None) }
    }

    /// Makes a user; its id. Where there is one user only, a further one is kept for when there are several, as in the reference.
    pub(crate) fn add(&self, name: &str) -> Result<String, ApiError> {
        if name.starts_with(SYSTEM_PREFIX) {
            return Err(
                ApiError::bad_request(format!("names that begin with {SYSTEM_PREFIX} are ComfyUI's own: choose another")).details(name)
            );
        }
        let _held = self.changing.lock();
        let (id, path) = (format!("{}_{}", safe_name(name), uuid::Uuid::new_v4()), self.file());
        self.folders.change(&path, |is_there| {
            let users = if is_there { stored_object(&self.root, &path)? } else { None };
            let mut users = users.unwrap_or_default();
            if users.values().any(|known| known == name) || !self.several && name == DEFAULT_USER {
                return Err(ApiError::bad_request("there is a user of that name: choose another").details(name));
            }
            if users.len() >= MAX_USERS {
                return Err(ApiError::bad_request(format!("there are {MAX_USERS} users already: remove some from users.json")));
            }
            users.insert(id.clone(), name.into());
            Ok(Value::Object(users).to_string().into_bytes())
        })?;
        Ok(id)
    }

    /// The settings in a user's folder; `None` where there are none yet. An error if they cannot be read.
    pub(crate) fn settings_in(&self, folder: &Path) -> Result<Option<Map<String, Value>>, ApiError> {
        self.object(&folder.join(SETTINGS))
    }

    /// Changes the settings of a user, who without any begins with `initial`.
    pub(crate) fn change_settings(
        &self,
        user: &str,
        initial: impl Fn() -> Map<String, Value>,
        change: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), ApiError> {
        let path = self.folder(user)?.join(SETTINGS);
        let _held = self.changing.lock();
        self.folders.change(&path, |is_there| {
            let settings = if is_there { stored_object(&self.root, &path)? } else { None };
            let mut settings = settings.unwrap_or_else(&initial);
            change(&mut settings);
            let text = serde_json::to_vec_pretty(&settings);
            let text = text.map_err(|e| ApiError::internal(format!("the settings cannot be written: {e}")))?;
            if text.len() > MOST_SETTINGS {
                let most = MOST_SETTINGS >> 20;
                return Err(ApiError::too_large(format!(
                    "all settings together may have {most} MiB, which this is more than: shorten some"
                )));
            }
            Ok(text)
        })
    }
}

/// Runs of what is not a letter, digit, `-` or `_` become one `-`.
fn safe_name(name: &str) -> String {
    let mut out = String::new();
    let mut replaced = false;
    for c in name.chars() {
        let keep = c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if keep {
            out.push(c);
        } else if !replaced {
            out.push('-');
        }
        replaced = !keep;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_become_folder_names() {
        assert_eq!(safe_name("a b//ü_c-"), "a-b-_c-");
    }
}
