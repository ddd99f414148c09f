// Classifies pictures: go run . HOST:PORT PICTURE...
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	lectern "example.com/client/gen/lectern/v1"
)

func main() {
	// One connection for the whole program; credentials.NewTLS in place of WithInsecure where the server has a certificate.
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	request := &lectern.ClassifyImageRequest{TopK: 1}
	for _, file := range os.Args[2:] {
		image, err := os.ReadFile(file)
		if err != nil {
			log.Fatal(err)
		}
		request.Images = append(request.Images, image)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // the server learns it too
	defer cancel()
	response, err := lectern.NewClassifyServiceClient(connection).ClassifyImage(ctx, request)
	if err != nil {
		failure := status.Convert(err)
		log.Fatalf("%s: %s", failure.Code(), failure.Message())
	}
	for i, result := range response.Results {
		best := result.Classes[0]
		fmt.Printf("%s  %s  %.2f\n", os.Args[i+2], best.Label, best.Probability)
	}
}
