//! The language of the OCI distribution spec: pure values, no I/O.

mod archive;
mod config;
mod digest;
mod error;
mod fault;
mod manifest;
mod name;
mod request;
mod spelling;

pub use archive::{ARCHIVE_HEAD, Archive};
pub use config::{CONFIG_MAX, ConfigError, ImageConfig, is_config_type};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error::ErrorCode;
pub use fault::Fault;
pub use manifest::{
    Descriptor, Kind, MANIFEST_ACCEPT, MANIFEST_MAX, Manifest, ManifestError, Platform, Role,
    is_manifest_type,
};
pub use name::{DOCKER_HUB, Name, NameError, Reference, Registry, Repository, Tag};
pub use request::{Access, Ask, Form, Naming, Page, Pull, Request, RequestError, What};
