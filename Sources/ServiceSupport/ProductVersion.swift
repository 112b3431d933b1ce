/// The version that every program of the product prints for `--version`.
public let productVersion = "0.1.0"
