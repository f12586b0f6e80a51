//! The gateway's folder of policies: one customer with one site for each number.
use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;

use super::{
    super::rules::{PORT, SERVERS, server},
    ground::{INTERNET, LAN, lan},
};

/// The gateway's identity.
pub const IDENTITY: &str = "gateway.example";

/// Returns the identity of a site.
pub fn identity(site: u32) -> String {
    format!("site.c{site}.example")
}

/// Writes the policies of customers 1 to `customers` in place of all others. `run` is the gateway's `/run`.
pub fn write(run: &Path, customers: u32) -> Result<()> {
    let folder = run.join("policies/customers");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    // One more of each for the customer that is added later.
    let limit = customers + 10;
    let mut text = format!(
        "[interfaces]\ninternet = \"{INTERNET}\"\nlan = \"{LAN}\"\ncloud_lan = [\"{}/{}\"]\n",
        SERVERS.0, SERVERS.1
    );
    let _ = write!(
        text,
        "[ipsec]\nidentity = \"{IDENTITY}\"\ncertificate = \"/run/gateway.crt\"\n\
         private_key = \"/run/gateway.key\"\nauthority = \"/run/ca.crt\"\n\
         [limits]\ntunnels = {limit}\ncustomers = {limit}\nflows = 1048576\n"
    );
    fs::write(run.join("policies/gateway.toml"), text)?;
    (1..=customers).try_for_each(|customer| add(run, customer))
}

/// Writes the policy of one customer.
pub fn add(run: &Path, customer: u32) -> Result<()> {
    let text = format!(
        "server = \"{}\"\nport = {PORT}\n[[site]]\nname = \"site\"\nidentity = \"{}\"\nlan = [\"{}\"]\n",
        server(customer),
        identity(customer),
        lan(customer)
    );
    Ok(fs::write(run.join(format!("policies/customers/c{customer:07}.toml")), text)?)
}

/// Removes the policy of one customer.
pub fn remove(run: &Path, customer: u32) -> Result<()> {
    Ok(fs::remove_file(run.join(format!("policies/customers/c{customer:07}.toml")))?)
}
