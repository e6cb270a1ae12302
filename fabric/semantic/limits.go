package semantic

// ProtocolVersion is what is spoken over the socket inside of agents.
const ProtocolVersion = 1

// Bounds of what may be asked for. What exceeds them is refused.
const (
	MaxBody      = 1 << 20  // bytes of a question
	MaxText      = 64 << 10 // bytes of an item's text
	MaxDims      = 4096     // of a vector
	MaxTags      = 32       // of an item
	MaxTag       = 64       // bytes
	MaxID        = 128      // bytes
	MaxParents   = 32       // of an item
	MaxBatch     = 256      // changes of a transaction
	MaxIDs       = 256      // of a get or a delete
	MaxResults   = 100      // of a search
	MaxList      = 1000     // of a page
	MaxQuery     = 4 << 10  // bytes of a search's text
	MaxScopes    = 64       // capabilities that count in a question
	MaxAnswer    = 3 << 20  // bytes of an answer
	MaxTTL       = 10 * 365 * 86400
	KeptVersions = 8 // earlier versions of an item
)

// Limits are the bounds as the socket tells them.
type Limits struct {
	Body     int `json:"body_bytes"`
	Text     int `json:"text_bytes"`
	Dims     int `json:"dimensions"`
	Tags     int `json:"tags"`
	Batch    int `json:"batch"`
	Results  int `json:"results"`
	Versions int `json:"versions"`
}

// Bounds returns them.
func Bounds() Limits {
	return Limits{Body: MaxBody, Text: MaxText, Dims: MaxDims, Tags: MaxTags, Batch: MaxBatch, Results: MaxResults, Versions: KeptVersions}
}
