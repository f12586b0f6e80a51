//! The check of credentials against strongSwan's own reader: keys and certificates of many kinds, made by OpenSSL.
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use gateway::policy::{Gateway, load, read_credentials};
use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Keys by name: whether gatewayd takes them, and the commands that write them.
const KEYS: &[(&str, bool, &[&str])] = &[
    ("p256", true, &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256"]),
    ("p256-other", true, &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256-other"]),
    ("p256-sec1", true, &["ec -in p256 -out p256-sec1"]),
    ("p256-without-public", true, &["ec -in p256 -no_public -out p256-without-public"]),
    ("p256-explicit", false, &["ec -in p256 -param_enc explicit -out p256-explicit"]),
    ("p256-parameters", false, &["ecparam -name prime256v1 -genkey -out p256-parameters"]),
    ("p256-encrypted", false, &["pkcs8 -topk8 -passout pass:x -in p256 -out p256-encrypted"]),
    ("p256-encrypted-sec1", false, &["ec -aes128 -passout pass:x -in p256 -out p256-encrypted-sec1"]),
    ("p384", true, &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384"]),
    ("p384-sec1", true, &["ec -in p384 -out p384-sec1"]),
    ("p521", false, &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521"]),
    ("rsa", true, &["genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa"]),
    ("rsa-pkcs1", true, &["rsa -traditional -in rsa -out rsa-pkcs1"]),
    ("rsa-1024", false, &["genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out rsa-1024"]),
    ("ed25519", true, &["genpkey -algorithm ED25519 -out ed25519"]),
    ("ed448", false, &["genpkey -algorithm ED448 -out ed448"]),
];
/// Keys that OpenSSL makes certificates for.
const CERTIFIED: [&str; 6] = ["p256", "p256-other", "p384", "p521", "rsa", "ed25519"];
const IDENTITY: &str = "gateway.example";

fn main() -> ExitCode {
    let missing = ["/usr/bin/openssl", "/usr/bin/pki"].into_iter().find(|path| !Path::new(path).exists());
    if let Some(missing) = missing {
        eprintln!("SKIPPED: {missing} is absent (Debian: openssl, strongswan-pki)");
    }
    let trial = |name: &str, test: fn() -> Result<()>| {
        let run = move || test().map_err(|error| format!("{error:#}").into());
        Trial::test(name, run).with_ignored_flag(missing.is_some())
    };
    let trials = vec![
        trial("keys_belong_to_certificates_as_strongswan_says", keys_belong_as_strongswan_says),
        trial("authority_is_accepted_as_strongswan_does", authorities),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A directory for keys and certificates, and a policy that names files in it.
struct Files {
    directory: TempDir,
    gateway: Gateway,
}

impl Files {
    fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("customers"))?;
        let text = format!(
            "[interfaces]\ninternet = \"a\"\nlan = \"b\"\ncloud_lan = \"10.0.0.0/8\"\n[ipsec]\n\
             identity = \"{IDENTITY}\"\ncertificate = \"/x\"\nprivate_key = \"/x\"\nauthority = \"/x\"\n"
        );
        fs::write(path("gateway.toml"), text)?;
        let gateway = load(directory.path())?.gateway;
        Ok(Self { directory, gateway })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let command =
            Command::new("openssl").args(arguments.split(' ')).current_dir(self.directory.path()).output()?;
        ensure!(
            command.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&command.stderr)
        );
        Ok(())
    }

    /// Makes a self-signed certificate. Authorities have the flag.
    fn certify(&self, key: &str, name: &str, flag: &str) -> Result<()> {
        self.openssl(&format!(
            "req -x509 -new -key {key} -out {name} -subj /CN=x -days 2 -addext subjectAltName=DNS:{IDENTITY} \
             -addext basicConstraints={flag}"
        ))
    }

    /// Returns the public key that strongSwan finds in a key or certificate.
    fn public(&self, kind: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let pki =
            Command::new("pki").args(["--pub", "--type", kind, "--in"]).arg(self.path(name)).output()?;
        Ok(pki.status.success().then_some(pki.stdout))
    }

    /// Checks these files and returns the messages of faults in the key, or all faults of other files.
    fn faults(&mut self, certificate: &str, key: &str, authority: &str) -> Vec<String> {
        self.gateway.ipsec.certificate = self.path(certificate);
        self.gateway.ipsec.private_key = self.path(key);
        self.gateway.ipsec.authority = self.path(authority);
        let check = read_credentials(&self.gateway, OffsetDateTime::now_utc());
        assert_eq!(check.credentials.is_some(), check.faults.is_empty());
        check.faults.iter().map(|fault| format!("{}: {}", fault.file.display(), fault.message)).collect()
    }
}

fn keys_belong_as_strongswan_says() -> Result<()> {
    let mut files = Files::new()?;
    for (name, _, commands) in KEYS {
        for command in *commands {
            files.openssl(command)?;
        }
        fs::set_permissions(files.path(name), fs::Permissions::from_mode(0o600))?;
    }
    files.certify("p384", "ca.crt", "critical,CA:TRUE")?;
    for name in CERTIFIED {
        files.certify(name, &format!("{name}.crt"), "CA:FALSE")?;
    }
    let mut pairs = 0;
    for (key, taken, _) in KEYS {
        let own = files.public("priv", key)?;
        ensure!(own.is_some() || !taken, "gatewayd takes {key}, and strongSwan cannot read it");
        for certificate in CERTIFIED {
            let certificate = format!("{certificate}.crt");
            let certified = files.public("x509", &certificate)?.context("strongSwan cannot read it")?;
            let belongs = *taken && own.as_ref() == Some(&certified);
            pairs += usize::from(belongs);
            let faults = files.faults(&certificate, key, "ca.crt");
            ensure!(faults.is_empty() == belongs, "{key} with {certificate}: {faults:?}");
            let in_key = faults.iter().all(|fault| fault.contains(&format!("/{key}: ")));
            ensure!(in_key, "{key} with {certificate}: {faults:?}");
        }
    }
    // p256 in three formats, p256-other, p384 in two, rsa in two, ed25519.
    ensure!(pairs == 9, "{pairs} pairs belong together");
    Ok(())
}

fn authorities() -> Result<()> {
    let mut files = Files::new()?;
    files.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key")?;
    files.certify("key", "own.crt", "CA:FALSE")?;
    for (flag, accepted) in [("CA:TRUE", true), ("critical,CA:TRUE,pathlen:0", true), ("CA:FALSE", false)] {
        files.certify("key", "ca.crt", flag)?;
        let pki = Command::new("pki").args(["--print", "--in"]).arg(files.path("ca.crt")).output()?;
        let printed = String::from_utf8_lossy(&pki.stdout).into_owned();
        let flags = printed.lines().find(|line| line.trim_start().starts_with("flags:")).unwrap_or_default();
        ensure!(flags.contains("CA") == accepted, "{flag}: strongSwan prints {printed}");
        ensure!(files.faults("own.crt", "key", "ca.crt").is_empty() == accepted, "{flag}");
    }
    Ok(())
}
