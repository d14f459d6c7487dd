//! `/upload/image` and `/upload/mask`: files from clients into the input, output and temp folders.

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use comfyd_folders::Kind;
use comfyd_node::Acting;

use crate::answer::{blocking, laborious};
use crate::app::App;
use crate::error::ApiError;
use crate::form::Form;
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::Run;
use crate::principal::Principal;
use crate::services::pictures::{Measured, with_alpha_of};
use crate::services::uploads::{Upload, Uploaded, original_path, store};

/// The routes of this module. The bound on bodies is the router's.
pub(super) fn routes() -> Table {
    Table::default().post("/upload/image", Run, image, Doc::new("files", "Stores a file.").form("UploadForm").json::<Uploaded>()).post(
        "/upload/mask",
        Run,
        mask,
        Doc::new(
            "files",
            "Stores a picture with the alpha channel of a mask: among the outputs in the API document's shape without a type.",
        )
        .form("UploadForm")
        .json::<Uploaded>(),
    )
}

async fn image(State(app): State<App>, principal: Principal, form: Form) -> Result<Json<Uploaded>, ApiError> {
    let upload = read(&form)?;
    blocking(move || {
        let _acting = begin(&app, &principal, &upload)?;
        store(&app.folders, upload, Ok).map(|stored| Json(stored.with_asset(&app, &principal)))
    })
    .await
}

async fn mask(State(app): State<App>, shape: ApiShape, principal: Principal, form: Form) -> Result<Json<Uploaded>, ApiError> {
    let mut upload = read(&form)?;
    if shape == ApiShape::Documented {
        upload.kind.get_or_insert_with(|| Kind::Output.as_str().to_owned());
    }
    let mask = upload.file.as_ref().map_or_else(Bytes::new, |(_, file)| file.clone());
    let asked = app.clone();
    let (principal, upload, original, mask) = blocking(move || {
        let _acting = begin(&asked, &principal, &upload)?;
        let original = original_path(&asked.folders, upload.original_ref.as_deref())?;
        let original = std::fs::read(original).map_err(|e| ApiError::internal(format!("cannot read the original picture: {e}")))?;
        Ok((principal, upload, Measured::new(original), Measured::new(mask)))
    })
    .await?;
    let bytes = original.memory() + mask.memory();
    let lease = app.room.take(bytes).await?;
    laborious(bytes, move || {
        let _acting = principal.act();
        let stored = store(&app.folders, upload, |_| with_alpha_of(&original, &mask).map(Bytes::from));
        drop(lease);
        stored.map(|stored| Json(stored.with_asset(&app, &principal)))
    })
    .await
}

/// Has this thread write into the caller's folders, if there is room.
fn begin(app: &App, principal: &Principal, upload: &Upload) -> Result<Acting, ApiError> {
    let (owner, folders) = principal.files(app);
    app.usage.room(&owner, &app.folders, &folders, upload.file.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64))?;
    Ok(principal.act())
}

fn read(form: &Form) -> Result<Upload, ApiError> {
    Ok(Upload {
        file: form.get("image").and_then(|part| Some((part.file_name.clone()?, part.bytes.clone()))),
        overwrite: form.text("overwrite")?.is_some_and(|text| matches!(text.as_str(), "true" | "1")),
        kind: form.text("type")?,
        subfolder: form.text("subfolder")?.unwrap_or_default(),
        original_ref: form.text("original_ref")?,
    })
}
