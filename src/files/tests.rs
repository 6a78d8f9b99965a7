//! One file of each kind, with the places everything stands at.

use super::*;

/// Everything found, a line each: `line:column-column text`, in the file's order.
fn found(path: &str, text: &str) -> Vec<String> {
    let reading = read(Format::of_name(path).unwrap(), path, text);
    assert_eq!(reading.fault, None, "{path}");
    shown(text, &reading)
}

fn shown(text: &str, reading: &Reading) -> Vec<String> {
    let end = |place: &Place| match place.end_line == place.line {
        true => format!("{}", place.end_column),
        false => format!("{}:{}", place.end_line, place.end_column),
    };
    let images = reading.images.iter().map(|image| {
        let Image { place, text: name, pin, .. } = image;
        let pin = match pin {
            Ok(at) => {
                // What a digest is put behind is the very reference.
                assert!(text.get(..*at).unwrap().ends_with(name.as_str()), "{name}");
                String::new()
            }
            Err(obstacle) => format!(" ({obstacle:?})"),
        };
        (place.clone(), format!("{}:{}-{} {name}{pin}", place.line, place.column, end(place)))
    });
    let unjudged = reading.unjudged.iter().map(|unjudged| {
        let Unjudged { place, text, why, .. } = unjudged;
        let shown = format!("{}:{}-{} ? {} {text}", place.line, place.column, end(place), why.word());
        (place.clone(), shown)
    });
    let mut all: Vec<_> = images.chain(unjudged).collect();
    all.sort();
    all.into_iter().map(|(_, line)| line).collect()
}

#[test]
fn dockerfiles() {
    let text = "\
# syntax=docker/dockerfile:1.7
# escape=\\
ARG VERSION=3.11
ARG BASE=python:${VERSION}-slim EMPTY= NONE
from --platform=$BUILDPLATFORM golang:1.22 as Build
RUN --mount=type=cache,target=/x --mount=type=bind,from=alpine:3.20,source=/a \\
    # a comment, and a blank line

    go build
FROM ${BASE} AS final
COPY --chown=1:1 --from=build /a /a
COPY --from=0 /a /a
COPY --from=ghcr.io/acme/tools:1.0 /t /t
COPY --from=9 /a /a
FROM \\
  debian\\
:12
FROM $NONE
FROM ${EMPTY}
FROM scratch
FROM \"redis:7\"
FROM final
ONBUILD COPY --from=busybox /b /b
onbuild run --mount=type=bind,\"from=nginx:1\" true
";
    assert_eq!(
        found("a/Dockerfile", text),
        [
            "1:10-31 docker/dockerfile:1.7",
            "5:32-43 golang:1.22",
            "6:57-68 alpine:3.20",
            "10:6-13 python:3.11-slim (Variables)",
            "13:13-35 ghcr.io/acme/tools:1.0",
            "14:13-14 9",
            "16:3-17:4 debian:12 (Pieces)",
            "18:6-11 ? variable $NONE",
            "19:6-14 ? variable ${EMPTY}",
            "21:6-15 redis:7 (Pieces)",
            "23:21-28 busybox",
            "24:37-44 nginx:1",
        ]
    );
}

#[test]
fn here_documents_are_no_instructions_unless_they_never_end() {
    let text = "\
FROM a
RUN <<EOF cat && 3<<-\"SECOND\" cat
FROM hidden
EOF
FROM hidden
\tSECOND
COPY <<'X' /x
FROM hidden
X
RUN echo \"<<NO\" $((1<<2)) <<<here
FROM b
RUN <<NEVER
FROM c
";
    assert_eq!(found("Dockerfile", text), ["1:6-7 a", "11:6-7 b", "13:6-7 c"]);
}

#[test]
fn directives_count_at_the_top_only_and_escapes_may_be_changed() {
    let text = "# escape=`\r\nFROM a `\r\n  AS b\r\nRUN dir c:\\\r\nFROM d:1\r\n# syntax=x\r\n";
    assert_eq!(found("Containerfile", text), ["2:6-7 a", "5:6-9 d:1"]);
    let text = "# a comment\n# syntax=x\nFROM a \\\\\nFROM b\n";
    assert_eq!(found("Dockerfile.dev", text), ["3:6-7 a", "4:6-7 b"]);
    let text = "\u{feff}# SYNTAX = docker/dockerfile:1 more\nFROM a";
    assert_eq!(found("x.dockerfile", text), ["1:12-31 docker/dockerfile:1", "2:6-7 a"]);
}

#[test]
fn compose_files() {
    let text = "\
x-base: &base
  image: python:3.11
x-name: &name \"redis:7\"
services:
  a:
    <<: *base
  b:
    <<: [*base]
    image: 'nginx:1.27'
  c: {image: *name}
  d:
    image: ${REGISTRY:-ghcr.io}/acme/api:${TAG-1.0.0}
  e:
    image: acme/worker:${TAG:?set it}
  f:
    build:
      context: .
      additional_contexts:
        base: docker-image://alpine:3.20
        other: ./other
    image: built-here
  g:
    image: pulled:1
    pull_policy: always
    build:
      dockerfile_inline: |

        FROM debian:12 AS x
        FROM $${x:-y}
        COPY --from=busybox:1 /a /a
  h:
    build:
      dockerfile_inline: \"FROM a:1\\nCOPY --from=b:2 . .\"
  é:
    image: \"caddy\\x3a2\"
  l:
    image: >-
      mysql:8
";
    assert_eq!(
        found("compose.yaml", text),
        [
            "2:10-21 python:3.11",
            "3:16-23 redis:7 (Alias)",
            "9:13-23 nginx:1.27",
            "12:12-54 ghcr.io/acme/api:1.0.0 (Variables)",
            "14:12-38 ? variable acme/worker:${TAG:?set it}",
            "19:30-41 alpine:3.20",
            "23:12-20 pulled:1",
            "28:14-23 debian:12",
            "29:14-22 y (Variables)",
            "30:21-30 busybox:1",
            "33:26-57 a:1 (Pieces)",
            "33:26-57 b:2 (Pieces)",
            "35:12-24 caddy:2 (Pieces)",
            "38:7-14 mysql:8",
        ]
    );
    assert_eq!(found("any.yml", "services: {a: {image: x:1}}"), ["1:23-26 x:1"]);
    assert_eq!(found("any.yml", "services: {a: {image_name: x:1}}"), [""; 0]);
}

#[test]
fn kubernetes_objects() {
    let text = "\
# Source: chart/templates/a.yaml
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
      - name: init
        image: busybox # a comment
      containers:
        - &c
          name: web
          image: &i !!str \"nginx:1.27\"
        - <<: *c
          name: other
        - {name: flow, image: quay.io/a/b@sha256:0000}
        - image: *i
        - image:
        - image: ''
      ephemeralContainers: [{image: \"debug\"}]
      volumes:
      - image: {reference: ghcr.io/acme/model:1, pullPolicy: Always}
---
apiVersion: v1
kind: List
items:
- apiVersion: batch/v1
  kind: CronJob
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: cron:1}]}}}}}
- apiVersion: v1
  kind: ConfigMap
  data: {image: no, containers: \"image: no\"}
- apiVersion: monitoring.coreos.com/v1
  kind: Prometheus
  spec:
    image: quay.io/prometheus/prometheus:v2
    icon: {image: logo.png}
    sidecar: {image: {repository: acme/side, tag: 1.0}}
- apiVersion: argoproj.io/v1alpha1
  kind: Workflow
  spec: {templates: [{container: {image: alpine}, script: {image: \"$(params.image)\"}}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec: {image: a:1, containers: [{image: a:1}]}
---
kind: NoObject
containers: [{image: no}]
";
    assert_eq!(
        found("k8s/all.yaml", text),
        [
            "9:16-23 busybox",
            "13:28-38 nginx:1.27 (Alias)",
            "16:31-54 quay.io/a/b@sha256:0000",
            "20:38-43 debug",
            "22:28-48 ghcr.io/acme/model:1",
            "29:70-76 cron:1",
            "36:12-44 quay.io/prometheus/prometheus:v2",
            "38:35-44 acme/side:1.0 (Assembled)",
            "41:42-48 alpine",
            "41:68-83 ? variable $(params.image)",
        ]
    );
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "a:1"}]}}"#;
    assert_eq!(found("pod.json", json), ["1:72-75 a:1"]);
    assert_eq!(found("tsconfig.json", "{/* no JSON */ \"image\": \"a:1\"}"), [""; 0]);
}

#[test]
fn charts_and_their_values() {
    let template = "\
{{- if .Values.enabled }}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include \"name\" . }}
  labels:
    {{- include \"labels\" . | nindent 4 }}
spec:
  containers:
  - name: {{ .Chart.Name }}
    image: \"{{ .Values.image.repository }}:{{ .Values.image.tag | default \"x\" }}\"
  {{- range .Values.more }}
  - image: {{ . }}
  {{- end }}
  - image: busybox:1.36
{{- end }}
";
    assert_eq!(
        found("templates/pod.yaml", template),
        [
            "11:13-81 ? template {{ .Values.image.repository }}:{{ .Values.image.tag | default \"x\" }}",
            "13:12-19 ? template {{ . }}",
            "15:12-24 busybox:1.36 (Template)",
        ]
    );
    let values = "\
image:
  registry: docker.io
  repository: acme/api
  tag: \"1.2.3\"
sidecar:
  image: {repository: acme/side, tag: '', digest: sha256:00}
  initImage: busybox
chart: {image: {repository: acme/chart, tag: \"\"}}
icon: {image: https://x/y.png}
";
    assert_eq!(
        found("values-prod.yaml", values),
        [
            "3:15-23 docker.io/acme/api:1.2.3 (Assembled)",
            "6:23-32 acme/side@sha256:00 (Assembled)",
            "7:14-21 busybox",
            "8:29-39 ? tag acme/chart",
        ]
    );
    let kustomization = "\
images:
- name: acme/api
  newTag: 1.2.3
- {name: a, newName: ghcr.io/acme/a, digest: sha256:00}
- {name: b, newName: ghcr.io/acme/b}
- name: c
";
    assert_eq!(
        found("kustomization.yaml", kustomization),
        [
            "2:9-17 acme/api:1.2.3 (Assembled)",
            "4:22-36 ghcr.io/acme/a@sha256:00 (Assembled)",
            "5:22-36 ? tag ghcr.io/acme/b",
        ]
    );
}

#[test]
fn workflows_and_actions() {
    let text = "\
on: push
jobs:
  a:
    container: node:20
    services:
      db: {image: postgres:16.4}
      cache:
        image: ${{ matrix.cache }}
    steps:
    - uses: actions/checkout@v4
    - uses: docker://alpine:3.20
    - run: docker run image
  b:
    container:
      image: 'ghcr.io/acme/ci:1'
";
    assert_eq!(
        found(".github/workflows/ci.yml", text),
        [
            "4:16-23 node:20",
            "6:19-32 postgres:16.4",
            "8:16-35 ? expression ${{ matrix.cache }}",
            "11:22-33 alpine:3.20",
            "15:15-32 ghcr.io/acme/ci:1",
        ]
    );
    let action = "name: x\nruns:\n  using: docker\n  image: docker://alpine:3.20\n";
    assert_eq!(found("action.yml", action), ["4:19-30 alpine:3.20"]);
    assert_eq!(found("action.yml", "runs: {using: docker, image: Dockerfile}"), [""; 0]);
}

#[test]
fn windows_files_with_marks_have_the_same_places() {
    let text = "\u{feff}services:\r\n  a:\r\n    # é\r\n    image: x:1\r\n  b:\r\n    image: \"y:2\"\r\n";
    assert_eq!(found("compose.yml", text), ["4:12-15 x:1", "6:13-16 y:2"]);
}

#[test]
fn yaml_that_ends_early_says_where_and_gives_what_came_before() {
    let text = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: a:1}]}\n---\na: [image\n";
    let reading = read(Format::Yaml, "x.yaml", text);
    assert_eq!(shown(text, &reading), ["3:29-32 a:1"]);
    let fault = reading.fault.unwrap();
    assert!(fault.place.line >= 5, "{fault:?}");
    // Broken YAML that speaks of no image concerns nobody here.
    assert_eq!(read(Format::Yaml, "x.yaml", "a: [b\n").fault, None);
    let template = "apiVersion: v1\nimage: {{ x }}\n  {{ y }}: - z\n";
    let fault = read(Format::Yaml, "x.yaml", template).fault.unwrap();
    assert!(fault.text.contains("template") && fault.place.line == 2, "{fault:?}");
}

#[test]
fn formats_are_known_by_name_and_by_text() {
    for (name, format) in [
        ("Dockerfile", Some(Format::Dockerfile)),
        ("a/b/dockerfile.dev", Some(Format::Dockerfile)),
        ("api.Dockerfile", Some(Format::Dockerfile)),
        ("Containerfile", Some(Format::Dockerfile)),
        ("Dockerfile.dockerignore", None),
        ("a.YML", Some(Format::Yaml)),
        ("Kustomization", Some(Format::Yaml)),
        ("x.json", Some(Format::Json)),
        ("Dockerfile-notes.md", None),
        ("main.rs", None),
    ] {
        assert_eq!(Format::of_name(name), format, "{name}");
    }
    for (text, format) in [
        ("# a comment\n\nfrom python", Some(Format::Dockerfile)),
        ("# syntax=docker/dockerfile:1\n", Some(Format::Dockerfile)),
        ("# x\n---\na: b", Some(Format::Yaml)),
        ("apiVersion: v1", Some(Format::Yaml)),
        ("{\"a\": 1}", Some(Format::Json)),
        ("hello", None),
        ("", None),
    ] {
        assert_eq!(Format::of_text(text), format, "{text:?}");
    }
}
