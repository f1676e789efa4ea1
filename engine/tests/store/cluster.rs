//! Private clusters of Postgres for one test: a server, a standby of it, and a pooler before them.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sqlx::{AssertSqlSafe, Connection as _, Row as _, postgres::PgConnection};
use tempfile::TempDir;

/// A server with its data in a folder of its own. It is killed when it is dropped.
pub struct Cluster {
    folder: TempDir,
    pub port: u16,
    server: Option<Child>,
}

/// A `PgBouncer` before a cluster. It is killed when it is dropped.
pub struct Bouncer {
    _folder: TempDir,
    pub port: u16,
    process: Child,
}

/// Whether there is a Postgres to make clusters of: then there is a server for all other tests too.
pub fn is_possible() -> bool {
    std::env::var_os("TEST_DATABASE_URL").is_some()
}

/// The folder of the newest server's programs.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        panic!("found no Postgres under /usr/lib/postgresql: scripts/packages postgresql")
    })
}

/// Postgres refuses to run as root, and then runs as Debian's user for it.
fn command(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0);
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "--reset-env",
                "--",
            ])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A folder that Debian's user may write to as well.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("mc-pg")
        .tempdir_in("/tmp")
        .unwrap();
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), anybody).unwrap();
    folder
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Cluster {
    /// A new cluster of this encoding, with the user `mc` and its database `mc`.
    pub async fn new(encoding: &str) -> Self {
        let folder = folder();
        let locale = if encoding == "UTF8" { "C.UTF-8" } else { "C" };
        run(command(&programs().join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .arg(format!("--encoding={encoding}"))
            .arg(format!("--locale={locale}"))
            .arg(format!("--pgdata={}", folder.path().join("data").display())));
        let mut cluster = Self {
            folder,
            port: free_port(),
            server: None,
        };
        cluster.start().await;
        cluster
            .execute("postgres", "CREATE ROLE mc LOGIN SUPERUSER")
            .await;
        cluster
            .execute("postgres", "CREATE DATABASE mc OWNER mc")
            .await;
        cluster
    }

    /// A standby of this one, called `name` where it gets its changes from. It runs.
    pub async fn standby(&self, name: &str) -> Self {
        let folder = folder();
        run(command(&programs().join("pg_basebackup"))
            .args([
                "--host=127.0.0.1",
                "--username=postgres",
                "--wal-method=stream",
                "--no-sync",
            ])
            .args(["--checkpoint=fast", "--write-recovery-conf"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--dbname=application_name={name}"))
            .arg(format!("--pgdata={}", folder.path().join("data").display())));
        let mut standby = Self {
            folder,
            port: free_port(),
            server: None,
        };
        standby.start().await;
        standby
    }

    pub async fn start(&mut self) {
        let server = command(&programs().join("postgres"))
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args([
                "-c",
                "fsync=off",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_connections=60",
            ])
            .spawn()
            .unwrap();
        self.server = Some(server);
        while PgConnection::connect(&self.address("postgres", "postgres"))
            .await
            .is_err()
        {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Kills it as a power cut would: no connection is told.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let file = self.folder.path().join("data/postmaster.pid");
        let pid = std::fs::read_to_string(file).unwrap_or_default();
        let pid = pid.lines().next().unwrap_or_default().to_owned();
        // All its processes at once: none writes on when the first is gone.
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let mut pids = vec![pid];
        pids.extend(
            children
                .unwrap_or_default()
                .split_whitespace()
                .map(ToOwned::to_owned),
        );
        pids.retain(|pid| !pid.is_empty());
        let _gone_already = Command::new("kill")
            .arg("-9")
            .args(&pids)
            .stderr(Stdio::null())
            .status();
        let _gone_already = server.kill();
        server.wait().unwrap();
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        run(command(&programs().join("pg_ctl"))
            .args(["stop", "--mode=fast", "--wait"])
            .arg(format!(
                "--pgdata={}",
                self.folder.path().join("data").display()
            )));
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
    }

    /// Makes a standby a server of its own; returns when it takes writes.
    pub async fn promote(&self) {
        self.execute("postgres", "SELECT pg_promote()").await;
        while self
            .text("postgres", "SELECT pg_is_in_recovery()::TEXT")
            .await
            != "false"
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn address(&self, user: &str, database: &str) -> String {
        format!(
            "postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    pub async fn execute(&self, database: &str, sql: &str) {
        let address = self.address("postgres", database);
        let mut connection = PgConnection::connect(&address).await.unwrap();
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The one text that the statement gives.
    pub async fn text(&self, database: &str, sql: &str) -> String {
        let address = self.address("postgres", database);
        let mut connection = PgConnection::connect(&address).await.unwrap();
        let sql = AssertSqlSafe(sql.to_owned());
        let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        row.get(0)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Bouncer {
    /// Before `cluster`, in this mode of pooling.
    pub async fn before(cluster: &Cluster, mode: &str, settings: &str) -> Self {
        let (folder, port) = (folder(), free_port());
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]
             mc = host=127.0.0.1 port={} dbname=mc user=mc
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {port}
             auth_type = any
             pool_mode = {mode}
             ignore_startup_parameters = extra_float_digits
             unix_socket_dir =
             {settings}\n",
            cluster.port
        );
        // Its lines begin where they are.
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        let process = command(Path::new("/usr/sbin/pgbouncer"))
            .arg("-q")
            .arg(&file)
            .spawn()
            .unwrap();
        let address = format!("postgres://mc@127.0.0.1:{port}/mc");
        while PgConnection::connect(&address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Self {
            _folder: folder,
            port,
            process,
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _ = self.process.wait();
    }
}
