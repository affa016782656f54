//! A real server: axum on two worker threads, answering JSON from a HashMap of Strings. Listens on the loopback address
//! alone, and ends when it is asked to (`GET /end`).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// Users in the map.
pub const USERS: u64 = 10_000;

#[derive(Clone, Debug, Serialize)]
struct User {
    name: String,
    mail: String,
    about: String,
    tags: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Note {
    title: String,
    lines: Vec<String>,
}

struct Data {
    users: HashMap<String, User>,
    notes: RwLock<HashMap<String, Note>>,
    end: Notify,
}

/// Serves until it is asked to end; `ready` is told the port.
///
/// # Errors
/// Where no runtime or port is to be had.
pub fn serve(ready: impl FnOnce(u16)) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let data = Arc::new(Data {
            users: (0..USERS).map(|n| (format!("user-{n}"), user(n))).collect(),
            notes: RwLock::default(),
            end: Notify::new(),
        });
        let routes = Router::new()
            .route("/user/{id}", get(one_user))
            .route("/note/{id}", put(put_note))
            .route("/cpu", get(cpu))
            .route("/end", get(end))
            .with_state(Arc::clone(&data));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready(listener.local_addr()?.port());
        axum::serve(
            axum::serve::ListenerExt::tap_io(listener, |stream| {
                // a delay of the kernel's is not what is measured
                let _ = stream.set_nodelay(true);
            }),
            routes,
        )
        .with_graceful_shutdown(async move { data.end.notified().await })
        .await
    })
}

fn user(n: u64) -> User {
    User {
        name: format!("User number {n}"),
        mail: format!("user{n}@example.org"),
        about: format!("All that user {n} ever wrote about themselves. ").repeat(4),
        tags: (0..5).map(|tag| format!("tag-{}", n % (tag + 2))).collect(),
    }
}

async fn one_user(State(data): State<Arc<Data>>, Path(id): Path<String>) -> Result<Json<User>, StatusCode> {
    data.users.get(&id).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

/// Replaces a note, and answers with the new one: memory that lives between requests.
async fn put_note(State(data): State<Arc<Data>>, Path(id): Path<String>, Json(note): Json<Note>) -> Json<Note> {
    let answer = note.clone();
    data.notes.write().unwrap_or_else(PoisonError::into_inner).insert(id, note);
    Json(answer)
}

async fn cpu() -> String {
    crate::cpu_ns().to_string()
}

async fn end(State(data): State<Arc<Data>>) -> &'static str {
    data.end.notify_one();
    "ending"
}
