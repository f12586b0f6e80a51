//! `gatewayctl status`: whether the gateway is healthy, and the state of daemon, charon, policy and tunnels.
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use gateway::{
    health::{Daemon, Processes},
    kernel::{maps::Maps, pins::Pins},
    status::{Status, TunnelStatus, tunnels},
};
use gateway_common::ids::TunnelId;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cookies,
    names::Names,
    report::{Part, Report},
    table::Table,
    table_use::{CustomerUse, ExpiryState},
};

/// Options of the command.
#[derive(Args, Clone, Copy, Default)]
pub struct Options {
    /// Leave out sites and customers, so that the cost does not grow with them
    #[arg(long)]
    brief: bool,
    /// Count the gateway as healthy without native XDP, for a network card that has none
    #[arg(long)]
    xdp_optional: bool,
}

/// All that the report is made of.
struct View {
    status: Status,
    processes: Processes,
    tables: Result<Tables>,
    options: Options,
}

/// The part that the pinned maps tell.
struct Tables {
    /// Empty in a brief report.
    customers: Vec<CustomerUse>,
    expiry: ExpiryState,
}

/// Reports the last state that gatewayd wrote, what the kernel says of it and of charon, and the use of the flow tables.
/// Returns true beside the report if the gateway is healthy.
pub fn report(state: &Path, pins: &Pins, options: Options) -> Result<(Report, bool)> {
    let mut status = Status::read(state)
        .with_context(|| format!("no status in {}: has gatewayd run here?", state.display()))?;
    status.tunnels.clear();
    if !options.brief {
        status.tunnels = tunnels::read(state)?;
    }
    let tables = Maps::open(pins).and_then(|maps| {
        update(&mut status.tunnels, &maps);
        let names = || Names::read(state);
        let customers = if options.brief { Vec::new() } else { CustomerUse::read(&maps, &names()?)? };
        Ok(Tables { customers, expiry: ExpiryState::read(&maps)? })
    });
    let view = View { status, processes: Processes::look(state, pins)?, tables, options };
    let reasons = view.reasons();
    let mut report = Report { json: view.json(&reasons)?, parts: view.text(&reasons) };
    cookies::add_to(&mut report, pins);
    Ok((report, reasons.is_empty()))
}

/// Takes what the programs act on from the maps: that is true also while gatewayd is not running.
fn update(tunnels: &mut [TunnelStatus], maps: &Maps) {
    for tunnel in tunnels {
        let entry = TunnelId::new(tunnel.id).and_then(|id| maps.tunnel(id).ok()).unwrap_or_default();
        tunnel.up = entry.up == 1;
        tunnel.mss = (entry.v4.mss, entry.v6.mss);
    }
}

impl View {
    /// Returns why the gateway is degraded, the worst first.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = self.processes.reasons(&self.status, self.options.xdp_optional);
        match &self.tables {
            Ok(tables) => reasons.extend(tables.expiry.fault()),
            Err(error) => reasons.push(format!("the tables cannot be read: {error:#}")),
        }
        reasons
    }

    fn json(&self, reasons: &[String]) -> Result<Value> {
        let (status, processes) = (&self.status, &self.processes);
        let mut object = serde_json::to_value(status)?;
        object["tunnels"] = serde_json::to_value(&status.tunnels)?;
        object["healthy"] = reasons.is_empty().into();
        object["reasons"] = reasons.into();
        object["gatewayd"] = self.daemon_name().into();
        let age = |time_ns: Option<u64>| time_ns.map(|time_ns| processes.seconds_since(time_ns));
        if self.is_current() {
            object["attempted_seconds_ago"] = age(Some(status.attempted_ns)).into();
            object["reconciled_seconds_ago"] = age(status.reconciled_ns).into();
            object["audited_seconds_ago"] = age(status.audited_ns).into();
            object["charon_since_seconds"] = age(Some(status.charon_since_ns)).into();
            object["policy"]["since_seconds"] = age(Some(status.policy.since_ns)).into();
        }
        object["charon_stopped"] = processes.charon_stopped().is_some().into();
        match &self.tables {
            Ok(tables) => {
                object["customers"] = tables.customers.iter().map(CustomerUse::json).collect();
                object["expiry_silent_seconds"] = tables.expiry.silent_seconds.into();
                object["expiry_behind_seconds"] = tables.expiry.behind_seconds.into();
            }
            Err(error) => object["tables"] = format!("{error:#}").into(),
        }
        Ok(object)
    }

    fn text(&self, reasons: &[String]) -> Vec<Part> {
        let status = &self.status;
        let mut lines: Vec<String> = reasons.iter().map(|reason| format!("degraded: {reason}")).collect();
        if lines.is_empty() {
            lines.push("healthy".to_owned());
        }
        lines.push(format!("gatewayd  {}", self.daemon_text()));
        lines.push(format!("charon    {}", self.charon_text()));
        lines.push(format!("policy    {}", self.policy_text()));
        lines.push(format!("XDP       {}", status.xdp));
        let mut parts: Vec<Part> = lines.into_iter().map(Part::Line).collect();
        if !self.options.brief {
            parts.push(Part::Table(table(status)));
            parts.extend(status.tunnels.iter().filter_map(narrow_path).map(Part::Line));
        }
        for (what, count) in [("refused", status.refused), ("restored", status.restored)] {
            if count > 0 {
                parts.push(Part::Line(format!("{what:<9} {count} times")));
            }
        }
        if let Ok(tables) = &self.tables
            && !self.options.brief
        {
            parts.push(Part::Table(CustomerUse::table(&tables.customers)));
        }
        for (what, lines) in [
            ("stranger", &status.strangers),
            ("more prefixes than fit", &status.crowded),
            ("policy fault", &status.faults),
            ("failed", &status.failed),
        ] {
            parts.extend(lines.iter().map(|line| Part::Line(format!("{what}: {line}"))));
        }
        parts
    }

    /// Returns true if the status is that of a gatewayd that is alive.
    fn is_current(&self) -> bool {
        matches!(self.processes.daemon(&self.status), Daemon::Running | Daemon::Hung)
    }

    fn age(&self, time_ns: u64) -> String {
        duration(self.processes.seconds_since(time_ns))
    }

    fn daemon_name(&self) -> &'static str {
        match self.processes.daemon(&self.status) {
            Daemon::Running => "running",
            Daemon::Hung => "hung",
            Daemon::Starting => "starting",
            Daemon::Stopped => "not running",
        }
    }

    fn daemon_text(&self) -> String {
        let name = self.daemon_name();
        let pid = self.processes.holder.map(|holder| format!(", pid {}", holder.pid)).unwrap_or_default();
        if !self.is_current() {
            let written = i64::try_from(self.status.written_unix_seconds).unwrap_or_default();
            let written =
                OffsetDateTime::from_unix_timestamp(written).ok().and_then(|time| time.format(&Rfc3339).ok());
            return format!("{name}{pid}; the rest is of {}", written.unwrap_or_default());
        }
        let reconciled = match self.status.reconciled_ns {
            Some(time_ns) => format!("reconciled {} ago", self.age(time_ns)),
            None => "never reconciled without a failure".to_owned(),
        };
        format!("{name}{pid}, {reconciled}")
    }

    fn charon_text(&self) -> String {
        let status = &self.status;
        let state = match (&status.charon, &status.charon_fault) {
            (Some(_), None) => "followed",
            (Some(_), Some(_)) => "silent",
            (None, None) => "not followed yet",
            (None, Some(_)) => "not connected",
        };
        let version = status.charon.as_ref().map(|version| format!("{version}, ")).unwrap_or_default();
        let fault = status.charon_fault.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default();
        if !self.is_current() {
            return format!("unknown; was {version}{state}{fault}");
        }
        let listed = match status.audited_ns {
            Some(time_ns) => format!(", all SAs listed {} ago", self.age(time_ns)),
            None => String::new(),
        };
        format!("{version}{state} for {}{listed}{fault}", self.age(status.charon_since_ns))
    }

    fn policy_text(&self) -> String {
        let policy = &self.status.policy;
        let since = match self.is_current() {
            true => format!(" for {}", self.age(policy.since_ns)),
            false => String::new(),
        };
        format!(
            "generation {}{since}, {} customers with {} sites, SHA-256 {}",
            policy.generation, policy.customers, policy.sites, policy.sha256
        )
    }
}

/// Returns a duration in one unit.
fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / MINUTE),
        7200..=172_799 => format!("{} h", seconds / HOUR),
        _ => format!("{} d", seconds / DAY),
    }
}

/// Returns the line of a site to which a router announced a smaller MTU.
fn narrow_path(tunnel: &TunnelStatus) -> Option<String> {
    let TunnelStatus { customer, site, .. } = tunnel;
    Some(format!(
        "narrow path: {} bytes to {customer}.{site}, says a router on the way",
        tunnel.path_mtu_bytes?
    ))
}

fn table(status: &Status) -> Table {
    let mut table = Table::new(["number", "customer", "site", "state", "peer", "cipher", "MSS"])
        .droppable(["cipher", "MSS", "number", "peer"]);
    for tunnel in &status.tunnels {
        // A space between algorithms lets the cell wrap.
        let cipher = tunnel.cipher.clone().unwrap_or_default().replace('/', " ");
        let (v4, v6) = tunnel.mss;
        table.add_row([
            tunnel.id.to_string(),
            tunnel.customer.clone(),
            tunnel.site.clone(),
            if tunnel.up { "up" } else { "down" }.to_owned(),
            tunnel.peer.clone().unwrap_or_default(),
            if tunnel.encapsulated { format!("{cipher} in UDP") } else { cipher },
            format!("{v4} / {v6}"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use gateway::process::{Process, RunState};
    use gateway_common::layout::{Quota, Usage};

    use super::*;
    use crate::report::Format;

    const SECOND_NS: u64 = 1_000_000_000;

    /// Returns the view of a healthy gateway with one tunnel.
    fn view(tunnel: TunnelStatus) -> View {
        let quota = Quota { flows: 16_777_215, half_open: 16_777_215, ..Quota::default() };
        let usage = Usage { flows: 16_777_215, half_open: 16_777_215, ..Usage::default() };
        let customer = CustomerUse { customer: tunnel.customer.clone(), usage, quota };
        let status = Status {
            started_ticks: 70,
            attempted_ns: 9000 * SECOND_NS,
            reconciled_ns: Some(9000 * SECOND_NS),
            interval_ms: 10_000,
            charon: Some("5.9.8".into()),
            audited_ns: Some(9001 * SECOND_NS),
            xdp: "native".into(),
            tunnels: vec![tunnel],
            ..Status::default()
        };
        let processes = Processes {
            holder: Some(Process { pid: 7, started_ticks: 70 }),
            holder_state: RunState::Alive,
            charon: None,
            now_ns: 9003 * SECOND_NS,
        };
        let tables = Tables { customers: vec![customer], expiry: ExpiryState::default() };
        View { status, processes, tables: Ok(tables), options: Options::default() }
    }

    fn text(view: &View, width: usize) -> String {
        let reasons = view.reasons();
        let report = Report { json: Value::Null, parts: view.text(&reasons) };
        report.render(Format::Text(Some(width))).unwrap()
    }

    /// Returns the text of a status with one tunnel, without the lines that are no tables.
    fn tables(tunnel: TunnelStatus, width: usize) -> String {
        let text = text(&view(tunnel), width);
        let lines = text.lines().skip_while(|line| !line.contains("customer") || line.starts_with("policy"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn berlin() -> TunnelStatus {
        TunnelStatus {
            customer: "acme".into(),
            site: "berlin".into(),
            id: 3,
            up: true,
            peer: Some("203.0.113.200:4500".into()),
            cipher: Some("AES_GCM_16_256/CURVE_25519".into()),
            encapsulated: true,
            mss: (1398, 1378),
            path_mtu_bytes: None,
        }
    }

    #[test]
    fn healthy_gateway_says_so_first_and_when_it_last_looked() {
        let text = text(&view(berlin()), 200);
        assert!(text.starts_with("healthy\ngatewayd  running, pid 7, reconciled 3 s ago\n"), "{text}");
        assert!(text.contains("charon    5.9.8, followed for 2 h, all SAs listed 2 s ago\n"), "{text}");
        let json = view(berlin()).json(&[]).unwrap();
        assert_eq!((&json["healthy"], &json["gatewayd"]), (&true.into(), &"running".into()));
        assert_eq!(json["reconciled_seconds_ago"], 3);
    }

    #[test]
    fn reasons_come_first_and_in_json() {
        let mut view = view(berlin());
        view.processes.holder = None;
        view.tables = Err(anyhow::anyhow!("no pins"));
        let text = text(&view, 200);
        let first = "degraded: gatewayd is not running\ndegraded: the tables cannot be read: no pins\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.contains("gatewayd  not running; the rest is of 1970-01-01T00:00:00Z\n"), "{text}");
        assert!(text.contains("charon    unknown; was 5.9.8, followed\n"), "{text}");
        let json = view.json(&view.reasons()).unwrap();
        assert_eq!((&json["healthy"], json["reasons"].as_array().unwrap().len()), (&false.into(), 2));
        assert!(json.get("reconciled_seconds_ago").is_none());
    }

    #[test]
    fn brief_status_has_neither_sites_nor_customers() {
        let mut view = view(berlin());
        view.options.brief = true;
        view.status.tunnels.clear();
        let text = text(&view, 200);
        assert!(!text.contains("half-open") && !text.contains("berlin"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn path_that_a_router_narrowed_is_named() {
        let line = "narrow path: 1400 bytes to acme.berlin, says a router on the way";
        assert!(!tables(berlin(), 200).contains("narrow path"));
        assert!(tables(TunnelStatus { path_mtu_bytes: Some(1400), ..berlin() }, 200).contains(line));
    }

    #[test]
    fn tables_fit_60_columns() {
        let longest = TunnelStatus {
            customer: "c".repeat(32),
            site: "s".repeat(32),
            id: 1_000_000,
            peer: Some("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into()),
            cipher: Some("AES_CBC_256/HMAC_SHA2_512_256/CURVE_25519".into()),
            ..berlin()
        };
        for tunnel in [berlin(), longest] {
            let text = tables(tunnel, 60);
            assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        }
    }

    #[test]
    fn narrow_terminal_keeps_customer_site_and_state() {
        let text = tables(berlin(), 60);
        assert!(
            ["acme", "berlin", " up", "203.0.113.200:4500"].iter().all(|cell| text.contains(cell)),
            "{text}"
        );
    }

    #[test]
    fn wide_terminal_shows_every_column() {
        let text = tables(berlin(), 200);
        assert!(text.contains("AES_GCM_16_256 CURVE_25519 in UDP") && text.contains("1398 / 1378"), "{text}");
    }

    #[test]
    fn durations_have_one_unit() {
        let durations = [0, 119, 120, 7200, 172_800].map(duration);
        assert_eq!(durations, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
