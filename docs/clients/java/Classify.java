import com.google.protobuf.ByteString;
import com.lectern.v1.ClassifyImageRequest;
import com.lectern.v1.ClassifyImageResponse;
import com.lectern.v1.ClassifyServiceGrpc;
import com.lectern.v1.ScoredClass;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/** Classifies pictures: {@code java Classify HOST:PORT PICTURE...}. */
public final class Classify {
  public static void main(String[] arguments) throws IOException {
    // One channel for the whole program: its connection serves many threads. Without usePlaintext() it takes TLS.
    ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    ClassifyImageRequest.Builder request = ClassifyImageRequest.newBuilder().setTopK(1);
    for (int i = 1; i < arguments.length; i++) {
      request.addImages(ByteString.copyFrom(Files.readAllBytes(Path.of(arguments[i]))));
    }
    try {
      ClassifyImageResponse response =
          ClassifyServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(30, TimeUnit.SECONDS) // which the server learns too
              .classifyImage(request.build());
      for (int i = 0; i < response.getResultsCount(); i++) {
        ScoredClass best = response.getResults(i).getClasses(0);
        System.out.printf("%s  %s  %.2f%n", arguments[i + 1], best.getLabel(), best.getProbability());
      }
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
