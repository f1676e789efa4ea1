//! `session`: live sessions as an operator sees and ends them, beside a server.

use crate::program::Program;

#[test]
fn a_live_session_is_listed_and_ended() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    let other = serving.sign_up("bob@example.com");
    assert_eq!(program.run(&["session", "list"]).ok(), "");
    let stop = |user: &str| program.run(&["session", "stop", user]);
    stop("ada@example.com").fails(1, &["user 1 has no live session"]);
    stop("eve@example.com").fails(1, &["eve@example.com"]);
    stop("77").fails(1, &["no user 77"]);

    for token in [&token, &other] {
        let started = serving.ask("POST", "/api/sessions/start", token, "");
        assert!(started.starts_with("HTTP/1.1 200 "), "{started}");
    }
    let listed = program.run(&["session", "list"]).ok();
    let users: Vec<&str> = listed
        .lines()
        .map(|line| line.split('\t').nth(1).unwrap())
        .collect();
    assert_eq!(users, ["1", "2"], "{listed}");
    assert!(
        listed.lines().all(|line| line.ends_with("Z\tmain")),
        "{listed}"
    );
    let json = program.run(&["session", "list", "--json"]).ok();
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["userId"], &first["node"]),
        (&1.into(), &"main".into()),
        "{first}"
    );

    let stopped = stop("ADA@example.com").ok();
    assert!(
        stopped.contains("of user 1 is stopped; it cost 0 credits"),
        "{stopped}"
    );
    let active = |token: &str| serving.ask("GET", "/api/sessions/active", token, "");
    assert!(active(&token).contains(r#""active":false"#));
    assert!(active(&other).contains(r#""active":true"#), "others go on");
    let history = serving.ask("GET", "/api/sessions", &token, "");
    assert!(history.contains(r#""endReason":"admin""#), "{history}");
    // The user may start another.
    loop {
        let started = serving.ask("POST", "/api/sessions/start", &token, "");
        if started.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(
            started.starts_with("HTTP/1.1 401 ") || started.starts_with("HTTP/1.1 4"),
            "{started}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(stop("1").ok().contains("of user 1 is stopped"));
    assert!(program.run(&["verify"]).ok().contains("no violation"));
}

#[test]
fn a_session_that_no_server_serves_goes_on() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    serving.ask("POST", "/api/sessions/start", &token, "");
    serving.signal("KILL");
    serving.wait();
    program
        .run(&["session", "stop", "ada@example.com"])
        .fails(1, &["no server ended the session"]);
    let serving = program.serve();
    let active = serving.ask("GET", "/api/sessions/active", &token, "");
    assert!(active.contains(r#""active":true"#), "{active}");
    assert!(
        program
            .run(&["session", "stop", "1"])
            .ok()
            .contains("is stopped")
    );
}
