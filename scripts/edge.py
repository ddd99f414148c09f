"""What deploy/ has of each capability at the edge of a cluster; a part of `scripts/capabilities.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from services.capability import Capability

EDGE, GATEWAY = Path("deploy/components/edge"), Path("deploy/components/gateway")
SINGLE = Path("deploy/overlays/single")
SECONDS = 600  # of the longest call

ROUTES = """\
resources:
  - "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: lectern
    virtual_hosts:
      - name: lectern
        domains: ["*"]
        # Another pod is tried where one goes away: calls change nothing, so that one may run twice.
        retry_policy:
          retry_on: unavailable,connect-failure,refused-stream,reset
          num_retries: 2
          retry_host_predicate:
            - name: envoy.retry_host_predicates.previous_hosts
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
          host_selection_retry_max_attempts: 5
        typed_per_filter_config:
          # Any page may call: a token is sent by whoever has it, and never by a browser itself.
          envoy.filters.http.cors:
            "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
            allow_origin_string_match: [{safe_regex: {regex: ".*"}}]
            allow_methods: POST, OPTIONS
            allow_headers: authorization, content-type, grpc-timeout, x-grpc-web, x-request-id, x-user-agent
            expose_headers: grpc-message, grpc-status, grpc-status-details-bin, x-request-id
            max_age: "86400"
        routes:
"""
# How many calls in a hundred go to the canary: the capability's key in the ConfigMap `lectern-canary`.
FRACTION = ", runtime_fraction: {{default_value: {{numerator: 0}}, runtime_key: {component}}}"
ROUTE = """\
          - match: {{prefix: /{service}/{fraction}}}
            route:
              cluster: {cluster}
              timeout: 0s # a stream may be long; the caller's deadline holds
              max_stream_duration: {{max_stream_duration: {seconds}s, grpc_timeout_header_max: {seconds}s}}
            typed_per_filter_config:
              envoy.filters.http.grpc_json_transcoder:
                "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder
                proto_descriptor: /etc/envoy/lectern.pb
                services: [{service}]
                auto_mapping: true
                convert_grpc_status: true
                print_options: {{stream_newline_delimited: true}}
                request_validation_options: {{reject_unknown_method: true, reject_unknown_query_parameters: true}}
"""
CLUSTER = """\
  - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: {component}
    type: STRICT_DNS # of a headless Service: every ready pod
    dns_refresh_rate: 2s
    connect_timeout: 2s
    lb_policy: ROUND_ROBIN # least requests would prefer a pod that fails at once
    per_connection_buffer_limit_bytes: 50331648
    # A pod that does not answer for its service gets no call, even where no other does.
    common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
    health_checks:
      - timeout: 2s
        interval: 1s
        no_traffic_interval: 1s
        unhealthy_threshold: 1
        healthy_threshold: 1
        grpc_health_check: {{service_name: {service}}}
    # Only connections that fail. Neither a full queue nor a caller's short deadline is a pod's fault, and a call that
    # a pod refuses as UNAVAILABLE is tried at another.
    outlier_detection:
      split_external_local_origin_errors: true
      consecutive_local_origin_failure: 3
      enforcing_local_origin_success_rate: 0
      enforcing_consecutive_5xx: 0
      enforcing_consecutive_gateway_failure: 0
      enforcing_success_rate: 0
      base_ejection_time: 5s
      max_ejection_percent: 50
    circuit_breakers:
      thresholds:
        - max_connections: 4096
          max_pending_requests: 4096
          max_requests: 4096
          retry_budget: {{budget_percent: {{value: 20}}, min_retry_concurrency: 64}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            connection_keepalive: {{interval: 10s, timeout: 5s}}
    load_assignment:
      cluster_name: {component}
      endpoints:
        - lb_endpoints:
            - endpoint: {{address: {{socket_address: {{address: lectern-{component}.lectern, port_value: 8001}}}}}}
"""
CANARY = "lectern.v1.ModelService"  # which answers while any model does
# Calls that are the canary's go to the others while it has no pod that answers.
WITH_CANARY = """\
  - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: {component}-canary
    connect_timeout: 2s
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.aggregate
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig
        clusters: [canary, {component}]
"""
UPSTREAM_TLS = """\
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: lectern-{component}.lectern
        common_tls_context:
          alpn_protocols: [h2]
          tls_certificates:
            - certificate_chain: {{filename: /etc/lectern/tls/tls.crt}}
              private_key: {{filename: /etc/lectern/tls/tls.key}}
              watched_directory: {{path: /etc/lectern/tls}}
          validation_context:
            trusted_ca: {{filename: /etc/lectern/tls/ca.crt}}
            watched_directory: {{path: /etc/lectern/tls}}
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: lectern-{component}.lectern}}}}]
"""
GRPC_ROUTE = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: lectern-{component}
  namespace: lectern
spec:
  parentRefs:
    - name: lectern
      sectionName: grpc
  rules:
    - matches:
        - method:
            service: {service}
      backendRefs:
        - name: lectern-{component}
          port: 8001
"""
SERVICE = """\
---
apiVersion: v1
kind: Service
metadata:
  name: lectern-{component}
spec:
  clusterIP: None
  selector:
    app.kubernetes.io/name: lectern
  ports:
    - name: grpc
      port: 8001
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
"""


def files(capabilities: Iterable[Capability], note: str) -> dict[Path, bytes]:
    """Generated files, by their paths from the root; `note` heads those that are text."""
    capabilities = tuple(capabilities)

    def each(template: str) -> str:
        return "".join(
            template.format(component=c.name.replace("_", "-"), service=c.service.full_name) for c in capabilities
        )

    def clusters(template: str) -> str:
        return "resources:\n" + each(template) + template.format(component="canary", service=CANARY) + each(WITH_CANARY)

    texts = {
        EDGE / "routes.yaml": ROUTES + "".join(map(_routes, capabilities)),
        EDGE / "clusters.yaml": clusters(CLUSTER),
        EDGE / "clusters-tls.yaml": clusters(CLUSTER + UPSTREAM_TLS),
        GATEWAY / "routes.yaml": each(GRPC_ROUTE).removeprefix("---\n"),
        SINGLE / "services.yaml": each(SERVICE).removeprefix("---\n"),
    }
    generated = {path: (note + text).encode() for path, text in texts.items()}
    return generated | {EDGE / "lectern.pb": descriptors(capabilities)}


def _routes(capability: Capability) -> str:
    """What a canary takes of a capability's calls, and all others."""
    component = capability.name.replace("_", "-")
    return "".join(
        ROUTE.format(service=capability.service.full_name, seconds=SECONDS, cluster=cluster, fraction=fraction)
        for cluster, fraction in ((f"{component}-canary", FRACTION.format(component=component)), (component, ""))
    )


def descriptors(capabilities: Iterable[Capability]) -> bytes:
    """A FileDescriptorSet of every capability, and of `google.rpc`, whose messages errors carry."""
    roots = [c.contract for c in capabilities]
    roots += [error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR]
    result = FileDescriptorSet()
    for file in dict.fromkeys(f for root in roots for f in _with_imports(root)):
        file.CopyToProto(result.file.add())
    return result.SerializeToString(deterministic=True)


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """The file after everything that it imports."""
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file
