//! What the console answers, before it is HTTP.

use http::StatusCode;

/// An answer of the console.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// How it went.
    pub status: StatusCode,
    /// What the body is.
    pub media: Media,
    /// The body.
    pub body: String,
    /// Where to go on: a path of the console.
    pub location: Option<String>,
    /// Under which name it is kept, where it is a file to be kept.
    pub file_name: Option<String>,
}

/// What a body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Media {
    /// The stylesheet.
    Css,
    /// A table for spreadsheets.
    Csv,
    /// A page.
    Html,
    /// Values for programs.
    Json,
    /// A unified difference.
    Patch,
    /// The icon.
    Svg,
}

impl Media {
    /// The `Content-Type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Css => "text/css; charset=utf-8",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Patch => "text/x-diff; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }
}

impl Answer {
    /// 200 with this body.
    pub(super) fn of(media: Media, body: String) -> Self {
        Self { status: StatusCode::OK, media, body, location: None, file_name: None }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Go on there with GET.
    pub(super) fn see(location: String) -> Self {
        Self {
            status: StatusCode::SEE_OTHER,
            location: Some(location),
            ..Self::of(Media::Html, String::new())
        }
    }

    /// To be kept under this name.
    pub(super) fn kept_as(mut self, name: impl Into<String>) -> Self {
        self.file_name = Some(name.into());
        self
    }
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Only a reviewer may.
    #[error(
        "Your role is viewer: only a reviewer may do this. Ask whoever keeps [[admin.user]] in pullgate.toml."
    )]
    Forbidden,
    /// What was asked for cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// It cannot be read or written now.
    #[error("{0}")]
    Unavailable(String),
}

impl Trouble {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<crate::audit::Error> for Trouble {
    fn from(error: crate::audit::Error) -> Self {
        if let crate::audit::Error::Broad { .. } = error {
            return Self::Invalid(format!("This filter leaves too much to look at: {error}."));
        }
        tracing::warn!(%error, "the record could not be read or written for the console");
        Self::Unavailable(format!(
            "The record cannot be used at this moment: {error}. Pulls are judged as before."
        ))
    }
}

impl From<crate::gate::CatalogError> for Trouble {
    fn from(error: crate::gate::CatalogError) -> Self {
        tracing::warn!(%error, "the catalog could not be read for the console");
        Self::Unavailable("The catalog cannot be read at this moment; the gateway's log says why. Pulls are judged as before.".to_owned())
    }
}

impl From<crate::review::Error> for Trouble {
    fn from(error: crate::review::Error) -> Self {
        match error {
            crate::review::Error::Cursor(_) => Self::Invalid(format!("{error}.")),
            error => {
                tracing::warn!(%error, "the review pages cannot be read");
                Self::Unavailable(format!(
                    "The review pages cannot be read at this moment: {error}. Pulls and the record go on; decision \
                     pages and the log can be read."
                ))
            }
        }
    }
}
