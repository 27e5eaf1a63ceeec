// LiteRT for edge_runtime on iOS: what edge_runtime/interpreters/swift.py calls through rubicon-objc.
// Add this file to the app's target, beside the pod TensorFlowLiteSwift. It has not been compiled or run by us.
import Foundation
import TensorFlowLite

/// One graph and its signatures, for one thread at a time. What fails returns nil or false, and `problem` says why.
@objc(EdgewiseInterpreter)
public final class EdgewiseInterpreter: NSObject {
  private var interpreter: Interpreter?
  private var runners: [String: SignatureRunner] = [:]
  private var failure = ""

  @objc public static func runtimeVersion() -> String { Runtime.version }

  @objc public func problem() -> String { failure }

  @objc(openGraph:threads:)
  public func open(graph path: String, threads: Int) -> Bool {
    attempt {
      var options = Interpreter.Options()
      options.threadCount = threads
      options.isXNNPackEnabled = true
      interpreter = try Interpreter(modelPath: path, options: options)
      return true
    } ?? false
  }

  @objc public func signatures() -> [String] { interpreter?.signatureKeys ?? [] }

  /// By name: the dtype, then the sides of the shape.
  @objc(inputsOf:)
  public func inputs(of signature: String) -> [String: [Any]]? {
    attempt {
      let runner = try self.runner(signature)
      var found: [String: [Any]] = [:]
      for name in runner.inputs { found[name] = described(try runner.input(named: name)) }
      return found
    }
  }

  /// Runs a signature. `shapes` has the inputs whose shape is another than last time. By name of the output: the
  /// dtype, the sides of the shape, the bytes.
  @objc(call:inputs:shapes:)
  public func call(_ signature: String, inputs: [String: Data], shapes: [String: [Int]]) -> [String: [Any]]? {
    attempt {
      let runner = try self.runner(signature)
      for (name, sides) in shapes { try runner.resizeInput(named: name, toShape: Tensor.Shape(sides)) }
      try runner.invoke(with: inputs)
      var found: [String: [Any]] = [:]
      for name in runner.outputs {
        let tensor = try runner.output(named: name)
        found[name] = described(tensor) + [tensor.data]
      }
      return found
    }
  }

  @objc public func close() {
    runners = [:]
    interpreter = nil
  }

  private func runner(_ signature: String) throws -> SignatureRunner {
    if let known = runners[signature] { return known }
    guard let interpreter = interpreter else { throw InterpreterError.failedToCreateInterpreter }
    let made = try interpreter.signatureRunner(with: signature)
    runners[signature] = made
    return made
  }

  private func described(_ tensor: Tensor) -> [Any] {
    ["\(tensor.dataType)".uppercased()] + tensor.shape.dimensions
  }

  /// After a failure runners are made anew, so that their tensors are allocated again.
  private func attempt<Found>(_ work: () throws -> Found) -> Found? {
    do {
      return try work()
    } catch {
      failure = "\(error)"
      runners = [:]
      return nil
    }
  }
}
