"""Image classification: residual networks on ImageNet, CIFAR-10 and Fashion-MNIST."""
