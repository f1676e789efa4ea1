//! Starts `minute-credit` in a folder of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Program {
    dir: TempDir,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Left {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Program {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program with these arguments, no settings of ours from outside, and its data in `data`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minute-credit"));
        command
            .args(arguments)
            .current_dir(self.dir())
            .env_clear()
            .env("USER", "tester")
            .env("PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Left {
        left(&self.command(arguments).output().unwrap())
    }

    /// Runs it with `input` on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Left {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        left(&child.wait_with_output().unwrap())
    }

    /// Starts `serve`, and waits until it says that it is ready.
    pub fn serve(&self) -> Serving {
        Serving::start(self.command(&["serve"]))
    }
}

/// What the program left that ended with `output`.
pub fn left(output: &Output) -> Left {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Left {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

impl Left {
    /// Asserts success, and gives what was printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Asserts a failure that is one line with all of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "{}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    /// Asserts that the arguments were refused.
    #[track_caller]
    pub fn fails_usage(&self) {
        assert_eq!(self.code, Some(2), "{self:?}");
    }
}

/// A running server.
pub struct Serving {
    child: Child,
    err: BufReader<std::process::ChildStderr>,
    pub greeting: String,
    pub address: SocketAddr,
}

impl Serving {
    /// Starts it with `command`, and waits until it says that it is ready.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut lines = String::new();
        let address = loop {
            let before = lines.len();
            assert!(err.read_line(&mut lines).unwrap() > 0, "it ended: {lines}");
            let line = &lines[before..];
            if let Some((_, rest)) = line.split_once("is ready at http://") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        Self {
            child,
            err,
            greeting: lines,
            address,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Suspends the process, and returns once all of its threads stand still: on a busy machine that
    /// takes a while.
    pub fn suspend(&self) {
        self.signal("STOP");
        let threads = format!("/proc/{}/task", self.child.id());
        let is_stopped = |thread: std::fs::DirEntry| {
            // After the name, which is in brackets, comes the state.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        while !std::fs::read_dir(&threads)
            .unwrap()
            .all(|thread| is_stopped(thread.unwrap()))
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The line with `words`, from before the server was ready or from now on.
    pub fn told(&mut self, words: &str) -> String {
        let before = self.greeting.lines().find(|line| line.contains(words));
        match before {
            Some(line) => line.to_owned(),
            None => self.wait_for_line(words),
        }
    }

    /// Reads the log up to a line with `words`, and gives it.
    pub fn wait_for_line(&mut self, words: &str) -> String {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.err.read_line(&mut line).unwrap() > 0, "it ended");
        }
        line
    }

    /// Waits for the end, and gives the exit code and the rest of the log.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.err.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }

    /// Sends one request as text, and gives the whole answer.
    pub fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Signs `email` up, and gives the token.
    pub fn sign_up(&self, email: &str) -> String {
        let body = format!(r#"{{"email":"{email}","password":"correct horse"}}"#);
        let answer = self.ask("POST", "/api/auth/signup", "", &body);
        let (_, rest) = answer
            .split_once(r#""token":""#)
            .unwrap_or_else(|| panic!("{answer}"));
        rest.split('"').next().unwrap().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // One that has ended can't be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
