//! The `pullgate` command.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before any TLS: reqwest and the OCI client take the process's default provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::from(pullgate::cli::Exit::Internal.code());
    }
    pullgate::cli::run(std::env::args_os())
}
