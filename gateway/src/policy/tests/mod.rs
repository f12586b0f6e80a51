//! Tests write policies to a directory and load them from there, as gatewayd does.
mod credentials;
mod docs;
mod files;
mod properties;
mod reload;
mod removals;
mod resolve;
mod rules;
mod text;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Faults, Policy, Reload, load};

/// A valid gateway part.
const GATEWAY: &str = r#"[interfaces]
internet = "eth_internet"
lan = "eth_lan"
cloud_lan = "10.200.0.0/24"
[ipsec]
identity = "gateway.example"
certificate = "/etc/gateway/pki/gateway.crt"
private_key = "/etc/gateway/pki/gateway.key"
authority = "/etc/gateway/pki/ca.crt"
"#;

/// A customer with one site.
fn customer(server: &str, identity: &str, lan: &str) -> String {
    format!("server = \"{server}\"\n[[site]]\nname = \"a\"\nidentity = \"{identity}\"\nlan = [\"{lan}\"]\n")
}

/// A policy directory, removed when dropped.
struct Dir(PathBuf);

impl Dir {
    /// Creates a directory with a valid gateway part and no customers.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gateway-policy-{}-{count}", std::process::id()));
        fs::create_dir_all(dir.join("customers")).unwrap();
        let dir = Self(dir);
        dir.write("gateway.toml", GATEWAY);
        dir
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.0.join(file), text).unwrap();
        self
    }

    fn remove(&self, file: &str) -> &Self {
        fs::remove_file(self.0.join(file)).unwrap();
        self
    }

    fn load(&self) -> Result<Policy, Faults> {
        load(&self.0)
    }

    fn reload(&self, last_good: Option<&Policy>) -> Reload {
        super::reload(&self.0, last_good)
    }

    /// Loads the directory and returns each fault as `file:line:column: message`, without the directory.
    fn faults(&self) -> Vec<String> {
        self.load().map_or_else(|faults| self.short(&faults), |_| Vec::new())
    }

    fn short(&self, faults: &Faults) -> Vec<String> {
        let dir = format!("{}/", self.0.display());
        let short = |fault: &super::Fault| {
            let text = fault.to_string().replace(&dir, "");
            text.lines().next().unwrap().replacen(": error", "", 1)
        };
        faults.iter().map(short).collect()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn example() -> &'static Path {
    // cargo runs tests in the package's directory.
    Path::new("../policies")
}
