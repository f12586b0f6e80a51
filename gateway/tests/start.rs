//! Starts and reloads of gatewayd while something of its policies has faults or cannot come into force.
mod place;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway::{
    adoption::pinned_limits,
    last_good,
    status::{Status, tunnels},
};
use nix::sys::signal::Signal;
use place::{ACME, Place, Test};

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 8] = [
        ("faulty_customer_at_the_start_keeps_its_last_good_version_and_the_others_start", faulty_customer),
        ("gateway_toml_that_nothing_can_be_kept_of_ends_with_status_2", hopeless),
        ("customers_that_are_unknown_end_with_status_1", unknown),
        ("start_with_an_empty_folder_is_held_back_until_it_is_forced", held_back_start),
        ("start_with_broken_credentials_goes_on", broken_credentials),
        ("changed_limits_start_with_the_tables_that_exist", changed_limits),
        ("removal_is_in_force_though_everything_else_of_the_reload_is_refused", removal),
        ("removal_is_in_force_though_the_state_folder_cannot_be_written", full_disk),
    ];
    place::run(tests, &[])
}

/// Returns a file for this customer with this server.
fn customer(name: &str, server: &str) -> String {
    ACME.replace("acme", name).replace("10.200.0.11", server)
}

fn write(place: &Place, name: &str, text: &str) -> Result<()> {
    Ok(fs::write(place.path(&format!("policies/customers/{name}.toml")), text)?)
}

fn change_gateway(place: &Place, from: &str, to: &str) -> Result<()> {
    let path = place.path("policies/gateway.toml");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{text}");
    Ok(fs::write(path, text.replace(from, to))?)
}

fn status(place: &Place) -> Result<Status> {
    let state = place.path("state");
    Ok(Status { tunnels: tunnels::read(&state)?, ..Status::read(&state)? })
}

/// Returns the names of the customers in force.
fn served(status: &Status) -> Vec<&str> {
    status.tunnels.iter().map(|tunnel| tunnel.customer.as_str()).collect()
}

fn says(lines: &[String], text: &str) -> Result<()> {
    ensure!(lines.iter().any(|line| line.contains(text)), "no line has {text:?}: {lines:#?}");
    Ok(())
}

fn faulty_customer(place: &Place) -> Result<()> {
    write(place, "globex", &customer("globex", "10.200.0.12"))?;
    place.start()?.end(Signal::SIGTERM)?;
    let kept = place.path("state").join(last_good::FILE);
    ensure!(fs::metadata(&kept)?.permissions().mode() & 0o777 == 0o600);

    write(place, "acme", "server = ")?;
    write(place, "globex", &customer("globex", "10.200.0.22"))?;
    write(place, "hooli", "server = ")?;
    write(place, "initech", &customer("initech", "10.200.0.13"))?;
    let daemon = place.start()?;
    let now = status(place)?;
    ensure!(served(&now) == ["acme", "globex", "initech"], "{now:?}");
    says(&now.faults, "customers/acme.toml:1:")?;
    says(&now.faults, "last good version is in force (1): acme")?;
    says(&now.faults, "not served (1): hooli")?;
    // The last good version of acme outlives the next start, too, after which it is removed for good.
    daemon.end(Signal::SIGKILL)?;
    let daemon = place.start()?;
    ensure!(served(&status(place)?) == ["acme", "globex", "initech"]);
    fs::remove_file(place.path("policies/customers/acme.toml"))?;
    ensure!(place.gatewayctl("reload")?.status.code() == Some(1), "hooli still has a fault");
    ensure!(served(&status(place)?) == ["globex", "initech"]);
    daemon.end(Signal::SIGKILL)?;
    write(place, "acme", "server = ")?;
    let _daemon = place.start()?;
    ensure!(served(&status(place)?) == ["globex", "initech"], "acme was removed before");
    Ok(())
}

fn hopeless(place: &Place) -> Result<()> {
    change_gateway(place, "cloud_lan = ", "cloud_lan ")?;
    place.pins().prepare()?;
    let output = place.gatewayd("state").output()?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2) && printed.contains("gateway.toml:4:"), "{printed}");
    ensure!(printed.ends_with("and no last good version of it is kept\n"), "{printed}");
    ensure!(!place.pins().exist() && !place.path("state").exists());

    change_gateway(place, "cloud_lan ", "cloud_lan = ")?;
    place.start()?.end(Signal::SIGTERM)?;
    change_gateway(place, "cloud_lan = ", "cloud_lan ")?;
    let _daemon = place.start()?;
    let now = status(place)?;
    ensure!(served(&now) == ["acme"], "{now:?}");
    says(&now.faults, "gateway.toml: the last good version is in force")
}

fn unknown(place: &Place) -> Result<()> {
    fs::rename(place.path("policies/customers"), place.path("away"))?;
    place.pins().prepare()?;
    let output = place.gatewayd("state").output()?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && printed.contains("the customers are unknown"), "{printed}");
    fs::rename(place.path("away"), place.path("policies/customers"))?;
    place.start()?.end(Signal::SIGTERM)?;
    fs::rename(place.path("policies/customers"), place.path("away"))?;
    let _daemon = place.start()?;
    let now = status(place)?;
    ensure!(served(&now) == ["acme"], "{now:?}");
    says(&now.faults, "cannot read the directory")
}

fn held_back_start(place: &Place) -> Result<()> {
    write(place, "globex", &customer("globex", "10.200.0.12"))?;
    place.start()?.end(Signal::SIGTERM)?;
    fs::rename(place.path("policies/customers"), place.path("away"))?;
    fs::create_dir(place.path("policies/customers"))?;
    let daemon = place.start()?;
    let held = "they would remove 2 of 2 customers (acme, globex)";
    let start = status(place)?;
    ensure!(served(&start) == ["acme", "globex"] && start.held_back_ns.is_some(), "{start:?}");
    says(&start.faults, held)?;
    // Neither an ordinary reload nor an approval of something else lets them go.
    gateway::approval::approve(&place.path("state"), start.held_back_ns.unwrap_or_default() + 1)?;
    let output = place.gatewayctl("reload")?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && printed.contains(held), "{printed}");
    ensure!(served(&status(place)?) == ["acme", "globex"]);
    // An approval that nobody has taken does not outlive the process.
    let last = status(place)?.held_back_ns.context("nothing is held back")?;
    gateway::approval::approve(&place.path("state"), last)?;
    daemon.end(Signal::SIGKILL)?;
    let _daemon = place.start()?;
    ensure!(served(&status(place)?) == ["acme", "globex"]);
    ensure!(gateway::approval::take(&place.path("state")).is_none());

    let output = place.gatewayctl("reload --force")?;
    let printed = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    ensure!(output.status.success() && printed == "reloaded: 0 sites\n", "{printed}");
    let now = status(place)?;
    ensure!(now.held_back_ns.is_none() && now.tunnels.is_empty() && now.faults.is_empty(), "{now:?}");
    // Without removals there is nothing to force.
    write(place, "acme", ACME)?;
    let output = place.gatewayctl("reload --force")?;
    ensure!(output.status.success() && served(&status(place)?) == ["acme"]);
    Ok(())
}

fn broken_credentials(place: &Place) -> Result<()> {
    let key = fs::read(place.path("gateway.key"))?;
    fs::write(place.path("gateway.key"), "broken")?;
    let _daemon = place.start()?;
    let now = status(place)?;
    ensure!(served(&now) == ["acme"] && now.failed.is_empty(), "{now:?}");
    says(&now.faults, "gateway.key: error: the gateway's private key")?;
    says(&now.faults, "charon keeps those that it has")?;
    ensure!(fs::read_to_string("/proc/sys/net/ipv4/conf/lan/forwarding")?.trim() == "1");
    fs::write(place.path("gateway.key"), key)?;
    ensure!(place.gatewayctl("reload")?.status.success());
    Ok(())
}

fn changed_limits(place: &Place) -> Result<()> {
    place.start()?.end(Signal::SIGTERM)?;
    let tables = pinned_limits(&place.pins()).context("no tables")?;
    ensure!((tables.tunnels, tables.customers, tables.flows, tables.flows6) == (16, 16, 4096, Some(1)));
    change_gateway(place, "flows = 4096", "flows = 8192\nflows6 = 64")?;
    change_gateway(place, "tunnels = 16", "tunnels = 8")?;
    // Its quota fits the new table only.
    write(place, "globex", &format!("max_flows = 6000\n{}", customer("globex", "10.200.0.12")))?;
    let daemon = place.start()?;
    let now = status(place)?;
    ensure!(served(&now) == ["acme"] && pinned_limits(&place.pins()) == Some(tables), "{now:?}");
    says(&now.faults, "[limits] changed to 8 tunnels, 16 customers, 8192 flows, 64 IPv6 flows")?;
    says(&now.faults, "the existing table of flows holds 4096")?;
    daemon.end(Signal::SIGTERM)?;
    ensure!(place.gatewayctl("detach")?.status.success());
    let _daemon = place.start()?;
    let (now, tables) = (status(place)?, pinned_limits(&place.pins()).context("no tables")?);
    ensure!(served(&now) == ["acme", "globex"] && now.faults.is_empty(), "{now:?}");
    ensure!((tables.tunnels, tables.customers, tables.flows, tables.flows6) == (8, 16, 8192, Some(64)));
    Ok(())
}

fn removal(place: &Place) -> Result<()> {
    write(place, "globex", &customer("globex", "10.200.0.12"))?;
    write(place, "initech", &customer("initech", "10.200.0.13"))?;
    let daemon = place.start()?;
    fs::remove_file(place.path("policies/customers/acme.toml"))?;
    write(place, "globex", &format!("max_flows = 9999\n{}", customer("globex", "10.200.0.12")))?;
    write(place, "hooli", "server = ")?;
    fs::write(place.path("gateway.crt"), "broken")?;
    change_gateway(place, "lan = \"lan\"", "lan = \"lan2\"")?;
    change_gateway(place, "identity = \"gateway.example\"", "identity = \"other.example\"")?;
    change_gateway(place, "customers = 16", "customers = 1")?;
    let begun = Instant::now();
    daemon.signal(Signal::SIGHUP)?;
    let gone = || -> Result<bool> { Ok(served(&status(place)?) == ["globex", "initech"]) };
    while !gone()? {
        ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", status(place)?);
    }
    let now = status(place)?;
    for text in
        ["quotas sum to", "hooli.toml:1:", "gateway.crt: error", "[interfaces] changed", "[limits] changed"]
    {
        says(&now.faults, text)?;
    }
    says(&now.faults, "[ipsec] changed, but its files have faults")
}

/// A directory in the place of the file that is written first does as a full disk does.
fn full_disk(place: &Place) -> Result<()> {
    write(place, "globex", &customer("globex", "10.200.0.12"))?;
    let daemon = place.start()?;
    for file in ["ids.toml", last_good::FILE] {
        fs::create_dir(place.path("state").join(format!("{file}.new")))?;
    }
    fs::remove_file(place.path("policies/customers/acme.toml"))?;
    write(place, "initech", &customer("initech", "10.200.0.13"))?;
    let output = place.gatewayctl("reload")?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(1) && printed.contains("new customers and sites are not in force"),
        "{printed}"
    );
    let now = status(place)?;
    ensure!(served(&now) == ["globex"], "{now:?}");
    says(&now.failed, "the policies are not kept for the next start")?;
    // The policy that was kept is older: it has acme.
    ensure!(!place.path("state").join(last_good::FILE).exists());
    for file in ["ids.toml", last_good::FILE] {
        fs::remove_dir(place.path("state").join(format!("{file}.new")))?;
    }
    // gatewayd tries again by itself: with the policies that were asked for, not with what is in the folder now.
    write(place, "hooli", &customer("hooli", "10.200.0.14"))?;
    let begun = Instant::now();
    let in_force =
        |now: &Status| served(now) == ["globex", "initech"] && now.failed.is_empty() && now.faults.is_empty();
    while !in_force(&status(place)?) {
        ensure!(begun.elapsed() < Duration::from_secs(15), "{:?}", status(place)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(place.path("state").join(last_good::FILE).exists());
    daemon.end(Signal::SIGTERM).map(drop)
}
