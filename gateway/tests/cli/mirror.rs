//! `REDIS_URL`: a Redis that is not there, one behind TLS, and one with a password.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::program::{Program, Serving, left};

/// A private Redis that keeps nothing on disk; killed when dropped.
struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    /// One whose port is given by the option `port_option`, with further options.
    fn start(port: u16, port_option: &str, options: &[&str]) -> Self {
        let server = Command::new("redis-server")
            .args([port_option, &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { port, server }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// A port that was free a moment ago; another test takes another one.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("redis.pem"), folder.join("redis.key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=redis",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            // An authority's certificate is none of a server.
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "2",
        ])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    (certificate, key)
}

fn serve(program: &Program, variables: &[(&str, &str)]) -> Serving {
    let mut command = program.command(&["serve"]);
    command.envs(variables.iter().copied());
    Serving::start(command)
}

#[test]
fn a_redis_that_was_never_there_is_told_and_so_is_that_it_came() {
    let program = Program::new();
    let port = free_port();
    let url = format!("redis://me:s3cr3t@127.0.0.1:{port}/1");
    let mut serving = serve(&program, &[("REDIS_URL", &url)]);
    let told = serving.told("the mirror can't reach Redis");
    assert!(told.contains("WARN") && told.contains("refused"), "{told}");
    assert!(
        told.contains(&format!("redis://127.0.0.1:{port}/1")),
        "{told}"
    );
    assert!(!told.contains("s3cr3t"), "{told}");
    let acl = ["--user", "me", "on", ">s3cr3t", "~*", "+@all"];
    let _redis = Redis::start(port, "--port", &acl);
    let told = serving.told("the mirror has Redis back");
    assert!(told.contains("INFO"), "{told}");
    serving.signal("TERM");
    let (code, rest) = serving.wait();
    assert_eq!(code, Some(0));
    assert!(
        !rest.contains("s3cr3t") && !rest.contains("can't reach"),
        "{rest}"
    );
}

#[test]
fn why_redis_refuses_is_told() {
    let program = Program::new();
    let redis = Redis::start(free_port(), "--port", &["--requirepass", "r#ght/s3cr3t"]);
    let check = |url: &str, words: &[&str]| {
        let url = url.replace("PLACE", &format!("127.0.0.1:{}", redis.port));
        let mut serving = serve(&program, &[("REDIS_URL", &url)]);
        let told = serving.told("the mirror ");
        for word in words {
            assert!(told.contains(word), "{word} is not in {told}");
        }
        assert!(!told.contains("s3cr3t"), "{told}");
    };
    // Signs that mean something in an address are written with percent signs.
    while TcpStream::connect(("127.0.0.1", redis.port)).is_err() {
        std::thread::yield_now();
    }
    check("redis://:r%23ght%2Fs3cr3t@PLACE", &["INFO", "is connected"]);
    check(
        "redis://:r%23ght%2Fs3cr3t@PLACE/15",
        &["INFO", "is connected"],
    );
    check("redis://PLACE", &["WARN", "NOAUTH"]);
    check("redis://:wrong-s3cr3t@PLACE", &["WARN", "WRONGPASS"]);
    check("redis://:r%23ght%2Fs3cr3t@PLACE/200", &["WARN", "DB index"]);
    // It speaks no TLS, so nothing is told to it.
    check("rediss://:r%23ght%2Fs3cr3t@PLACE", &["WARN", "rediss://"]);
}

#[test]
fn a_redis_behind_tls_is_trusted_by_its_certificate() {
    let program = Program::new();
    let (certificate, key) = certificate(program.dir());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let options = [
        "--port",
        "0",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
    ];
    let redis = Redis::start(free_port(), "--tls-port", &options);
    let url = format!("rediss://127.0.0.1:{}", redis.port);
    while TcpStream::connect(("127.0.0.1", redis.port)).is_err() {
        std::thread::yield_now();
    }

    let trusting = [("REDIS_URL", url.as_str()), ("SSL_CERT_FILE", certificate)];
    let mut serving = serve(&program, &trusting);
    assert!(
        serving.greeting.contains("mirrored to"),
        "{}",
        serving.greeting
    );
    serving.told("the mirror is connected to Redis");
    drop(serving);

    // Signed by somebody whom nobody trusts.
    let mut serving = serve(&program, &[("REDIS_URL", url.as_str())]);
    let told = serving.told("the mirror ");
    assert!(
        told.contains("WARN") && told.contains("InvalidCertificate"),
        "{told}"
    );
    drop(serving);

    // Without anybody to trust there is no TLS, and without that no server.
    fs::write(program.dir().join("empty.pem"), "").unwrap();
    let mut command = program.command(&["serve"]);
    command
        .env("REDIS_URL", &url)
        .env("SSL_CERT_FILE", "empty.pem");
    left(&command.output().unwrap()).fails(1, &["REDIS_URL", "certificates", "SSL_CERT_FILE"]);
}

#[test]
fn a_redis_at_a_socket_is_found() {
    let program = Program::new();
    let socket = program.dir().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let _redis = Redis::start(0, "--port", &["--unixsocket", socket]);
    while !Path::new(socket).exists() {
        std::thread::yield_now();
    }
    let url = format!("redis+unix://{socket}?db=2");
    let mut serving = serve(&program, &[("REDIS_URL", &url)]);
    serving.told("the mirror is connected to Redis");
}
