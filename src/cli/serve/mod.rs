//! `pullgate serve`: the gateway, from its files to its last reply.

mod compose;
mod reload;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use miette::{IntoDiagnostic as _, WrapErr as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::settings::gateway;

pub use compose::{Options, Running};

/// Starts the HTTPS gateway.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pullgate serve
  pullgate serve --config /etc/pullgate/pullgate.toml

Signals:
  SIGHUP   read the policy and the certificates again
  SIGTERM  finish the replies under way, then end")]
pub struct Serve {
    /// The gateway's settings; a missing file at the default place means the defaults.
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,
}

impl Serve {
    /// Runs until SIGTERM or SIGINT, then drains.
    pub async fn run(self) -> miette::Result<ExitCode> {
        let settings = gateway::load(&self.config)?;
        let mut terminate = signal(SignalKind::terminate()).into_diagnostic()?;
        let mut interrupt = signal(SignalKind::interrupt()).into_diagnostic()?;
        let mut hangup = signal(SignalKind::hangup()).into_diagnostic()?;
        let running = Running::start(&settings, Options::default()).await?;
        greet(&settings, &running).into_diagnostic().wrap_err("standard output cannot be written")?;
        loop {
            tokio::select! {
                _ = hangup.recv() => running.reload(),
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        tracing::info!("stopping: replies under way are finished first; a second signal ends at once");
        tokio::select! {
            () = running.stop() => {}
            _ = interrupt.recv() => tracing::warn!("stopped at once"),
            _ = terminate.recv() => tracing::warn!("stopped at once"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn greet(settings: &gateway::Gateway, running: &Running) -> std::io::Result<()> {
    let mut out = anstream::stdout();
    let address = running.address();
    let host = settings.listen.hosts.first().map_or("localhost", String::as_str);
    let gateway = format!("{host}:{}", address.port());
    let ca = settings.listen.tls.ca.display();
    writeln!(out, "pullgate {} listens on https://{address}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  policy  {} ({})", settings.policy.file.display(), running.policy())?;
    writeln!(out, "  CA      {ca}")?;
    writeln!(out, "  admin   http://{}/readyz", running.admin_address())?;
    writeln!(out)?;
    writeln!(out, "Try an allowed image and a refused one:")?;
    let get = format!("curl --cacert {ca} https://{gateway}/v2/docker.io/library/python/manifests");
    writeln!(out, "  {get}/3.11-slim-bookworm -I")?;
    writeln!(out, "  {get}/latest")?;
    writeln!(out, "and read what was blocked:")?;
    writeln!(out, "  pullgate log --blocked")?;
    out.flush()
}
