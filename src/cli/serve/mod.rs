//! `pullgate serve`: the gateway, from its files to its last reply.

mod compose;
mod control;
mod judge;
mod reload;

use std::io::{self, Write};
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure};
use crate::settings::gateway;
use crate::telemetry;

pub(super) use compose::audit_settings;
pub use compose::{Options, Running, StartError};

/// Starts the HTTPS gateway.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pullgate serve
  pullgate serve --config /etc/pullgate/pullgate.toml

Signals:
  SIGHUP   read the policy and the certificates again
  SIGTERM  finish the replies under way, then end")]
pub(crate) struct Arguments {
    /// The gateway's settings; a missing file at the default place means the defaults.
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub(crate) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    telemetry::init_log().map_err(Failure::usage)?;
    let settings = gateway::load(&arguments.config).map_err(Failure::unjudged)?;
    super::block_on(serve(settings, out))?
}

async fn serve(settings: gateway::Gateway, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let running = Running::start(&settings, Options::default()).await?;
    greet(&settings, &running, out)?;
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
    Ok(Exit::Done)
}

fn greet(settings: &gateway::Gateway, running: &Running, out: &mut dyn Write) -> io::Result<()> {
    let address = running.address();
    let host = settings.listen.hosts.first().map_or("localhost", String::as_str);
    let gateway = format!("{host}:{}", address.port());
    let ca = settings.listen.tls.ca.display();
    writeln!(out, "pullgate {} listens on https://{address}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  policy  {} ({})", settings.policy.file.display(), running.policy())?;
    writeln!(out, "  CA      {ca}")?;
    let scheme = if settings.admin.tls.is_some() { "https" } else { "http" };
    writeln!(out, "  console {scheme}://{}/ (/readyz, /metrics)", running.admin_address())?;
    writeln!(out)?;
    writeln!(out, "Try an allowed image and a refused one:")?;
    let get = format!("curl --cacert {ca} https://{gateway}/v2/docker.io/library/python/manifests");
    writeln!(out, "  {get}/3.11-slim-bookworm -I")?;
    writeln!(out, "  {get}/latest")?;
    writeln!(out, "and read what was blocked:")?;
    writeln!(out, "  pullgate log --blocked")?;
    out.flush()
}
