/** A build that failed for a reason the author can do something about; the message is all they need to see. */
export class BuildError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = "BuildError";
  }
}
