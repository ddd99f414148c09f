"""What KServe would make of an InferenceService and its ServingRuntime, where the model is on a PersistentVolumeClaim.

It is a template of what the controller and the webhook of KServe 0.15.2 do in the mode RawDeployment, after their
source; KServe itself does not run on the node.

It leaves out what KServe writes that is Kubernetes' own default, such as the strategy of rollouts.
"""

from __future__ import annotations

from typing import Any

from checking.manifests import Manifest, of_kind

API = "serving.kserve.io"
MODELS, VOLUME = "/mnt/models", "kserve-pvc-source"
PORT = 80
"""Of the Service; by KServe's setting `serviceClusterIPNone` it is headless, so calls go to the container's own."""
COMPONENT = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model"}
"""Fields of a predictor that are not those of a pod."""


def served(manifests: list[Manifest]) -> list[Manifest]:
    """The manifests, with a Deployment, a Service and an autoscaler in place of those for KServe."""
    (service,), (runtime,) = of_kind(manifests, "InferenceService"), of_kind(manifests, "ServingRuntime")
    others = [manifest for manifest in manifests if manifest not in (service, runtime)]
    predictor, container = service["spec"]["predictor"], dict(runtime["spec"]["containers"][0])
    metadata = described(service, runtime)
    name = metadata["name"]
    claim = predictor["model"]["storageUri"].removeprefix("pvc://")
    container["volumeMounts"] = [*container["volumeMounts"], {"name": VOLUME, "mountPath": MODELS, "readOnly": True}]
    volume = {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    pod = {key: value for key, value in predictor.items() if key not in COMPONENT}
    pod |= {"containers": [container], "volumes": [*runtime["spec"]["volumes"], volume]}
    selector = {"app": metadata["labels"]["app"]}
    template = {"metadata": {key: metadata[key] for key in ("labels", "annotations")}, "spec": pod}
    deployment = {"selector": {"matchLabels": selector}, "template": template}
    (port,) = container["ports"]
    ports = [
        {
            "name": port["name"],
            "port": PORT,
            "targetPort": port["containerPort"],
            "protocol": port["protocol"],
            "appProtocol": "kubernetes.io/h2c",
        }
    ]
    target = {"type": "Utilization", "averageUtilization": predictor["scaleTarget"]}
    autoscaler = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": predictor["minReplicas"],
        "maxReplicas": predictor["maxReplicas"],
        "metrics": [{"type": "Resource", "resource": {"name": predictor["scaleMetric"], "target": target}}],
    }
    return [
        *others,
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"clusterIP": "None", "selector": selector, "ports": ports},
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": autoscaler,
        },
    ]


def described(service: Manifest, runtime: Manifest) -> dict[str, Any]:
    """The metadata of all that KServe makes, and of the pods."""
    own = service["metadata"]
    name = f"{own['name']}-predictor"
    labels = {f"{API}/inferenceservice": own["name"], "component": "predictor", "app": f"isvc.{name}"}
    source = {f"internal.{API}/storage-initializer-sourceuri": service["spec"]["predictor"]["model"]["storageUri"]}
    return {
        "name": name,
        "namespace": own["namespace"],
        "labels": runtime["spec"]["labels"] | own.get("labels", {}) | labels,
        "annotations": runtime["spec"]["annotations"] | own["annotations"] | source,
    }
