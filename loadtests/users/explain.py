"""Users of ExplainService: why CIFAR-10 photos, and a text, are what the models say."""

from __future__ import annotations

from locust import task

from lectern.v1 import explain_pb2 as pb
from lectern.v1 import explain_pb2_grpc
from loadtests.pictures import Pictures
from loadtests.user import GrpcUser

PHOTOS = Pictures("image_classifier.npz")
SAMPLES = 8
TEXT = "What a wonderful film!"
METHODS = {
    "saliency": pb.ExplanationMethod(saliency=pb.Saliency()),
    "grad_cam": pb.ExplanationMethod(grad_cam=pb.GradCam()),
    "smooth_grad": pb.ExplanationMethod(smooth_grad=pb.SmoothGrad(samples=SAMPLES)),
}


class ExplainUser(GrpcUser):
    """Most calls need one gradient; the samples of the others fill batches."""

    def on_start(self) -> None:
        self.stub = explain_pb2_grpc.ExplainServiceStub(self.channel)

    def explain(self, method: str, name: str) -> None:
        """Explain a photo drawn at random."""
        (photo,) = PHOTOS.some(1)
        request = pb.ExplainRequest(input=pb.ExplainedInput(image=photo), method=METHODS[method])
        self.call(self.stub.Explain, request, name)

    @task(6)
    def saliency(self) -> None:
        self.explain("saliency", "Explain, saliency")

    @task(3)
    def grad_cam(self) -> None:
        self.explain("grad_cam", "Explain, Grad-CAM")

    @task(1)
    def words(self) -> None:
        """Explain a text: a call of the encoder for each word, together in batches."""
        given = pb.ExplainedInput(text=pb.ExplainedText(text=TEXT))
        method = pb.ExplanationMethod(occlusion=pb.Occlusion())
        self.call(self.stub.Explain, pb.ExplainRequest(input=given, method=method), "Explain, words of a text")

    @task(1)
    def smooth_grad(self) -> None:
        self.explain("smooth_grad", f"Explain, SmoothGrad of {SAMPLES}")
